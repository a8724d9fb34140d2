# Everything starts here: `make help` lists the targets. Each sets up .venv first, if it is not there yet.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup smoke chaos test test-clusters lint format table3 table3-short table3-as-released pilot run table figures \
	report status verify score collect sync dashboard doctor bench audit lock schema

PYTHON ?= python3
BIN := .venv/bin
REPLICATE := $(BIN)/replicate

# Variables for the user, such as: make table3 DATA_DIR=/data DEVICES=0,1 PER_DEVICE=2 SEEDS=0,1 SET="lr=0.02"
DATA_DIR ?= data
DEVICES ?= auto
EXPERIMENT ?= table3
INIT ?= lsuv
ACTIVATION ?= relu
SEED ?= 0

space := $(subst ,, )
SETTINGS = $(if $(DATASET),dataset=$(DATASET)) $(if $(SEEDS),seed=$(subst $(space),$(comma),$(strip $(SEEDS)))) $(SET)
comma := ,
home = $(patsubst ~/%,$(HOME)/%,$(1))
FOLDERS = --data-dir "$(call home,$(DATA_DIR))" $(if $(OUT),--out "$(call home,$(OUT))")
SELECT = $(FOLDERS) $(if $(strip $(SETTINGS)),--set $(SETTINGS))
MIRROR = $(if $(WANDB),--wandb $(WANDB))
RESOURCES = --devices $(DEVICES) $(if $(DETERMINISTIC),--deterministic) $(if $(STEP),--step $(STEP)) \
	$(if $(DEVICES_PER_RUN),--devices-per-run $(DEVICES_PER_RUN))
EACH = $(if $(PER_DEVICE),--per-device $(PER_DEVICE))

# Runs that ended in an error (1) do not keep the others from their table; wrong usage (2) and a stop (3) do.
define whole
@set -e; code=0; $(REPLICATE) matrix experiments/$(1).yaml $(SELECT) $(RESOURCES) $(MIRROR) $(EACH) $(2) || code=$$?; \
if [ $$code -le 1 ]; then \
	$(REPLICATE) table experiments/$(1).yaml $(SELECT); \
	$(REPLICATE) figures experiments/$(1).yaml $(SELECT); \
	$(REPLICATE) report experiments/$(1).yaml $(SELECT); \
fi; exit $$code
endef

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'
	@echo "  variables: DATA_DIR DATASET DEVICES PER_DEVICE DEVICES_PER_RUN SEEDS SET OUT WANDB DETERMINISTIC STEP,"
	@echo "  and EXPERIMENT for run, table, figures, report, status, verify, score, sync, dashboard; SAMPLE for verify;"
	@echo "  DIRS for collect"

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

smoke: .venv/.installed  ## the whole grid at toy size on embedded images, in about a minute: does everything work?
	$(call whole,smoke,--wandb off)

chaos: .venv/.installed  ## a storm of faults over the smoke matrix, compared with one in peace; writes results/chaos.md
	$(BIN)/python experiments/chaos.py --interval 2 --page results/chaos.md

test: .venv/.installed  ## run the tests, by two processes
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-clusters: .venv/.installed  ## run the tests on clusters of this machine (SLURM, Ray), which take minutes
	$(BIN)/python -m pytest -rs -m cluster tests/matrix

schema: .venv/.installed  ## write experiments/schema.json, with which editors check experiment files
	$(BIN)/python -c "from replicate.experiment import json_schema; print(json_schema(), end='')" > experiments/schema.json

lint: .venv/.installed  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict replicate

format: .venv/.installed  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

table3: .venv/.installed  ## Table 3 by the paper's protocol, seeds 0 to 4
	$(call whole,table3)

table3-short: .venv/.installed  ## Table 3 with every iteration count divided by 5, seeds 0 to 2
	$(call whole,table3-short)

table3-as-released: .venv/.installed  ## Table 3 with the two recipes that the released code gives to maxout cells
	$(call whole,table3-as-released)

pilot: .venv/.installed  ## the whole table on a laptop's CPU, small and short: an evening
	$(call whole,pilot)

run: .venv/.installed  ## one run, such as: make run INIT=lsuv ACTIVATION=maxout SEED=0
	$(REPLICATE) run experiments/$(EXPERIMENT).yaml $(FOLDERS) $(RESOURCES) $(MIRROR) \
		--set init=$(INIT) activation=$(ACTIVATION) seed=$(SEED) $(if $(DATASET),dataset=$(DATASET)) $(SET)

table: .venv/.installed  ## write the table of EXPERIMENT (table3) from the records in OUT
	@$(REPLICATE) table experiments/$(EXPERIMENT).yaml $(SELECT)

figures: .venv/.installed  ## draw the figures of EXPERIMENT from the records in OUT
	@$(REPLICATE) figures experiments/$(EXPERIMENT).yaml $(SELECT)

report: .venv/.installed  ## write OUT/report/index.html, all that was found of EXPERIMENT on one page
	@$(REPLICATE) report experiments/$(EXPERIMENT).yaml $(SELECT)

status: .venv/.installed  ## show what is done of EXPERIMENT, and what is left
	@$(REPLICATE) status experiments/$(EXPERIMENT).yaml $(SELECT)

verify: .venv/.installed  ## run a sample of EXPERIMENT's finished runs again and compare, such as: make verify SAMPLE=5
	$(REPLICATE) verify experiments/$(EXPERIMENT).yaml $(SELECT) $(RESOURCES) $(EACH) \
		$(if $(SAMPLE),--sample $(SAMPLE))

score: .venv/.installed  ## compute EXPERIMENT's table from its predictions, and compare it with the records in OUT
	@$(REPLICATE) score experiments/$(EXPERIMENT).yaml $(SELECT)

collect: .venv/.installed  ## merge output folders into OUT, such as: make collect DIRS="a b" OUT=results/local/table3
	$(REPLICATE) collect $(DIRS) --out "$(call home,$(OUT))"

sync: .venv/.installed  ## upload what EXPERIMENT logged offline to Weights & Biases, with a report job
	@$(REPLICATE) sync experiments/$(EXPERIMENT).yaml $(SELECT)

dashboard: .venv/.installed  ## save a W&B workspace for the runs of EXPERIMENT
	@$(REPLICATE) dashboard experiments/$(EXPERIMENT).yaml $(SELECT)

doctor: .venv/.installed  ## check devices, disk, data and W&B, and suggest fixes
	@$(REPLICATE) doctor $(FOLDERS)

bench: .venv/.installed  ## measure the speed of training next to a plain Lightning loop
	$(BIN)/python experiments/bench --devices $(DEVICES) $(if $(OUT),--out "$(call home,$(OUT))")

audit: .venv/.installed  ## look up the locked dependencies among known vulnerabilities
	@$(BIN)/python .ci/audit.py

lock:  ## resolve the dependencies again (needs uv)
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock
