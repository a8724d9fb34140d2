# `make help` lists the targets. Each sets up .venv first if it is missing.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo activation-statistics smoke chaos test test-clusters lint format table3 table3-short \
	table3-as-released pilot run search table figures report power status check check-init verify score collect sync dashboard doctor bench audit lock schema

PYTHON ?= python3
BIN := .venv/bin
REPLICATE := $(BIN)/replicate

# Variables for the user, such as: make table3 DATA_DIR=/data DEVICES=0,1 PER_DEVICE=2 SEEDS=0-2 SET="lr=0.02"
DATA_DIR ?= data
DEVICES ?= auto
EXPERIMENT ?= table3
INIT ?= lsuv
ACTIVATION ?= relu
SEED ?= 0
CHECK ?= yes

# Whether a variable says yes, such as DETERMINISTIC=1; DETERMINISTIC=0 says no.
on = $(or $(filter 1 yes true on,$($(1))),$(if $(filter-out 0 no false off,$($(1))),$(error $(1)=$($(1)) is unknown; choose from: 1, yes, true, on, 0, no, false, off)))
space := $(subst ,, )
SETTINGS = $(if $(DATASET),dataset=$(DATASET)) $(if $(SEEDS),seed=$(subst $(space),$(comma),$(strip $(SEEDS)))) $(SET)
comma := ,
FOLDERS = --data-dir "$(DATA_DIR)" $(if $(OUT),--out "$(OUT)")
OWN = $(if $(PLUGIN),--plugin "$(PLUGIN)")
SELECT = $(FOLDERS) $(OWN) $(if $(strip $(SETTINGS)),--set $(SETTINGS))
MIRROR = $(if $(WANDB),--wandb $(WANDB)) $(if $(LOGGER),--logger $(LOGGER))
RESOURCES = --devices $(DEVICES) $(if $(call on,DETERMINISTIC),--deterministic) $(if $(STEP),--step $(STEP)) \
	$(if $(DEVICES_PER_RUN),--devices-per-run $(DEVICES_PER_RUN))
EACH = $(if $(PER_DEVICE),--per-device $(PER_DEVICE))

# An empty OUT is a variable that somebody forgot to set.
ifneq ($(origin OUT),undefined)
$(if $(strip $(OUT)),,$(error OUT is empty; give a folder, or leave it out))
endif

# What the user has typed, to print it again
AGAIN = $(subst ','\'',$(MAKEOVERRIDES))
# After runs that ended in an error (1) the table is still written; not after wrong usage (2). A stop (3) is no failure.
define whole
@set -e; code=0; $(if $(call on,CHECK),$(REPLICATE) check experiments/$(1).yaml $(SELECT) || code=$$?;) \
[ $$code -ne 1 ] || echo 'to carry out the runs all the same: make $@ $(AGAIN) CHECK=no'; [ $$code -eq 0 ] || exit $$code; \
 $(REPLICATE) matrix experiments/$(1).yaml $(SELECT) $(RESOURCES) $(MIRROR) $(EACH) $(2) || code=$$?; \
case $$code in \
	0 | 1) \
		$(REPLICATE) table experiments/$(1).yaml $(SELECT) --quiet; \
		$(REPLICATE) figures experiments/$(1).yaml $(SELECT); \
		$(REPLICATE) report experiments/$(1).yaml $(SELECT); \
		[ $$code -eq 1 ] || echo 'next: make $(3)' ;; \
	3) echo 'stopped; to resume: make $@ $(AGAIN)'; exit ;; \
esac; exit $$code
endef

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
	@echo "  variables: DATA_DIR DATASET DEVICES PER_DEVICE DEVICES_PER_RUN SEEDS SET PLUGIN OUT WANDB LOGGER DETERMINISTIC CHECK"
	@echo "  STEP, and EXPERIMENT for run, search, table, figures, report, power, status, check, verify, score,"
	@echo "  sync, dashboard; SAMPLE for verify; SD for power; DIRS for collect"

setup: .venv/.installed  ## make .venv and install the locked dependencies

.venv/.installed: requirements.lock pyproject.toml
	@set -e; if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python '>=3.11' .venv; \
		uv pip install --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock; \
		uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .; \
	else \
		$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one by: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'; \
		$(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install --require-hashes -r requirements.lock; \
		$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

demo: .venv/.installed  ## draw what an initialisation does to a deep net (about a minute); writes results/local/demo
	@$(BIN)/python experiments/demo.py $(if $(OUT),--out "$(OUT)")

activation-statistics: .venv/.installed  ## draw activations and gradients of untrained deep nets (about a minute)
	@$(BIN)/python experiments/activation_statistics.py $(if $(OUT),--out "$(OUT)")

smoke: CHECK = no
smoke: .venv/.installed  ## run the whole grid at toy size (about a minute) to check the installation
	$(call whole,smoke,$(if $(WANDB),,--wandb off),table3)

chaos: .venv/.installed  ## run the smoke matrix under random faults and compare the results; writes results/chaos.md
	$(BIN)/python experiments/chaos.py --interval 2 --wandb offline --page results/chaos.md

test: .venv/.installed  ## run the tests in two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-clusters: .venv/.installed  ## run the tests on SLURM and Ray clusters of this machine (some minutes)
	$(BIN)/python -m pytest -rs -m cluster tests/matrix

schema: .venv/.installed  ## write experiments/schema.json, which editors use to check experiment files
	$(BIN)/python -c "from replicate.experiment import json_schema; print(json_schema(), end='')" > experiments/schema.json

lint: .venv/.installed  ## check style, types, imports and wording
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict replicate
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

format: .venv/.installed  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

table3: .venv/.installed  ## run Table 3 by the paper's protocol, seeds 0 to 4
	$(call whole,table3,,verify EXPERIMENT=$@ $(AGAIN))

table3-short: .venv/.installed  ## run Table 3 with every iteration count divided by 5, seeds 0 to 2
	$(call whole,table3-short,,verify EXPERIMENT=$@ $(AGAIN))

table3-as-released: .venv/.installed  ## run Table 3 with the released code's two recipes for maxout cells
	$(call whole,table3-as-released,,verify EXPERIMENT=$@ $(AGAIN))

pilot: .venv/.installed  ## run the whole table small and short on a laptop's CPU (an evening)
	$(call whole,pilot,,verify EXPERIMENT=$@ $(AGAIN))

run: .venv/.installed  ## do one run, such as: make run INIT=lsuv ACTIVATION=maxout SEED=0
	$(REPLICATE) run experiments/$(EXPERIMENT).yaml $(FOLDERS) $(OWN) $(RESOURCES) $(MIRROR) \
		--set init=$(INIT) activation=$(ACTIVATION) seed=$(SEED) $(if $(DATASET),dataset=$(DATASET)) $(SET) || [ $$? -eq 3 ]

search: EXPERIMENT = search
search: .venv/.installed  ## search for a learning rate and a weight decay by validation images; EXPERIMENT names another file
	$(REPLICATE) search experiments/$(EXPERIMENT).yaml $(SELECT) $(RESOURCES) $(MIRROR) $(EACH) || [ $$? -eq 3 ]

table: .venv/.installed  ## write the table of EXPERIMENT (table3) from the records in OUT
	@$(REPLICATE) table experiments/$(EXPERIMENT).yaml $(SELECT)
	$(if $(filter report,$(MAKECMDGOALS)),,@echo 'next: make report $(AGAIN)')

figures: .venv/.installed  ## draw the figures of EXPERIMENT from the records in OUT
	@$(REPLICATE) figures experiments/$(EXPERIMENT).yaml $(SELECT)

report: .venv/.installed  ## write OUT/report/index.html, a page with all results of EXPERIMENT
	@$(REPLICATE) report experiments/$(EXPERIMENT).yaml $(SELECT)

power: .venv/.installed  ## print how many seeds per cell would decide EXPERIMENT's claims, such as: make power SD=0.2
	@$(REPLICATE) power experiments/$(EXPERIMENT).yaml $(SELECT) $(if $(SD),--sd $(SD))

status: .venv/.installed  ## show which runs of EXPERIMENT are done, running and waiting
	@$(REPLICATE) status experiments/$(EXPERIMENT).yaml $(SELECT)

check: .venv/.installed  ## check the loss, the gradients and the data of EXPERIMENT (a minute; table3 and pilot do it first)
	@$(REPLICATE) check experiments/$(EXPERIMENT).yaml $(SELECT)

check-init: .venv/.installed  ## check the initialisations of a file of yours (a minute), such as: make check-init FILE=my_init.py
	$(if $(FILE),,$(error check-init needs FILE, such as: make check-init FILE=experiments/plugins/random_signs.py))
	@$(REPLICATE) check-init "$(FILE)"

verify: .venv/.installed  ## repeat a sample of EXPERIMENT's finished runs and compare, such as: make verify SAMPLE=5
	$(REPLICATE) verify experiments/$(EXPERIMENT).yaml $(SELECT) $(RESOURCES) $(EACH) \
		$(if $(SAMPLE),--sample $(SAMPLE)) || [ $$? -eq 3 ]

score: .venv/.installed  ## compute EXPERIMENT's table from stored predictions, and compare it with the records
	@$(REPLICATE) score experiments/$(EXPERIMENT).yaml $(SELECT)

collect: .venv/.installed  ## merge output folders into OUT, such as: make collect DIRS="a b" OUT=results/local/table3
	$(if $(OUT),,$(error collect needs OUT, the folder to merge into, such as: make collect DIRS="a b" OUT=results/local/all))
	$(REPLICATE) collect $(DIRS) --out "$(OUT)"

sync: .venv/.installed  ## upload what EXPERIMENT logged offline to Weights & Biases, with a report job
	@$(REPLICATE) sync experiments/$(EXPERIMENT).yaml $(SELECT)

dashboard: .venv/.installed  ## save a W&B workspace for the runs of EXPERIMENT
	@$(REPLICATE) dashboard experiments/$(EXPERIMENT).yaml $(SELECT)

doctor: .venv/.installed  ## check devices, disk, data and W&B, and suggest fixes
	@$(REPLICATE) doctor $(FOLDERS)

bench: .venv/.installed  ## measure the speed of training and of a plain Lightning loop
	$(BIN)/python experiments/bench --devices $(DEVICES) $(if $(OUT),--out "$(OUT)")

audit: .venv/.installed  ## check the locked dependencies for known vulnerabilities
	@$(BIN)/python .ci/audit.py

lock:  ## resolve the dependencies again (needs uv)
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
