"""The Makefile: what it refuses, and how a stop ends. Its targets themselves run in CI."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("OUT", "MAKELEVEL", "MAKEFLAGS")}
    command = ["make", "--silent", "--old-file=.venv/.installed", *words]
    return subprocess.run(
        command, check=False, cwd=ROOT, env={**environment, **variables}, capture_output=True, text=True
    )


@pytest.mark.parametrize("target", ["table", "smoke", "doctor", "demo", "activation-statistics"])
def test_an_empty_out_is_an_error(target: str) -> None:
    for done in (make(target, "OUT="), make(target, OUT="")):
        assert done.returncode == 2
        assert "OUT is empty; give a folder, or leave it out" in done.stderr


def test_collect_needs_out() -> None:
    done = make("collect", "DIRS=a")
    assert done.returncode == 2
    assert "collect needs OUT, the folder to merge into, such as: " in done.stderr


def test_a_plugin_is_handed_on_and_check_init_needs_a_file() -> None:
    for target in ("run", "smoke", "table", "search"):
        assert '--plugin "my init.py"' in make("--dry-run", target, "PLUGIN=my init.py").stdout
    assert "--plugin" not in make("--dry-run", "smoke").stdout
    assert ' check-init "a b.py"' in make("--dry-run", "check-init", "FILE=a b.py").stdout
    assert "check-init needs FILE, such as: make check-init FILE=" in make("check-init").stderr


def test_smoke_is_logged_at_wandb_only_if_asked_for() -> None:
    for words, option in (([], "--wandb off"), (["WANDB=offline"], "--wandb offline")):
        (command,) = (line for line in make("--dry-run", "smoke", *words).stdout.split(";") if " matrix " in line)
        assert command.count("--wandb") == 1
        assert f"{option} " in command


def test_search_has_a_file_of_its_own() -> None:
    assert " search experiments/search.yaml " in make("--dry-run", "search").stdout
    assert " search experiments/mine.yaml " in make("--dry-run", "search", "EXPERIMENT=mine").stdout


def test_words_for_on_and_off() -> None:
    for word, given in {"1": True, "yes": True, "on": True, "0": False, "no": False, "false": False, "": False}.items():
        command = make("--dry-run", "pilot", f"DETERMINISTIC={word}").stdout
        assert ("--deterministic" in command) == given
    wrong = make("--dry-run", "pilot", "DETERMINISTIC=maybe")
    assert "DETERMINISTIC=maybe is unknown; choose from: 1, yes, true, on, 0, no, false, off" in wrong.stderr


@pytest.mark.parametrize(
    ("code", "result", "printed"),
    [
        (0, 0, ["check", "matrix", "table", "figures", "report", "next: make verify EXPERIMENT=pilot OUT=a\\ b"]),
        (1, 2, ["check", "matrix", "table", "figures", "report"]),
        (2, 2, ["check", "matrix"]),
        (3, 0, ["check", "matrix", "stopped; to resume: make pilot OUT=a\\ b"]),
    ],
)
def test_a_stop_is_no_failure_and_wrong_usage_writes_no_table(
    tmp_path: Path, code: int, result: int, printed: list[str]
) -> None:
    """A script in place of the program prints its command, and `matrix` ends with a code."""
    program = tmp_path / "replicate"
    program.write_text(f'#!/bin/sh\necho "$1"\n[ "$1" != matrix ] || exit {code}\n')
    program.chmod(0o755)
    done = make("pilot", f"REPLICATE={program}", "OUT=a b")
    assert done.returncode == result
    assert [line.replace(f" REPLICATE={program}", "") for line in done.stdout.splitlines()] == printed


def test_a_check_that_fails_stops_what_follows_and_can_be_skipped(tmp_path: Path) -> None:
    program = tmp_path / "replicate"
    program.write_text('#!/bin/sh\necho "$1"\n[ "$1" != check ]\n')
    program.chmod(0o755)
    for target in ("table3", "table3-short", "table3-as-released", "pilot"):
        failed = make(target, f"REPLICATE={program}")
        first, hint = failed.stdout.splitlines()
        assert (failed.returncode, first) == (2, "check")
        assert hint == f"to carry out the runs all the same: make {target} REPLICATE={program} CHECK=no"
    for words in (["pilot", "CHECK=no"], ["smoke"]):
        done = make(*words, f"REPLICATE={program}")
        assert (done.returncode, done.stdout.splitlines()[:2]) == (0, ["matrix", "table"])
