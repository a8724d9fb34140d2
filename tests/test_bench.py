"""The benchmark as a command: its options, what it writes, and what a measurement that fails leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.cli import main
from bench.compare import MeasurementError, carry_out
from bench.scheduler import queue_cost

from replicate.matrix.local import LocalLauncher
from replicate.matrix.task import PRELOAD

SCRIPT = Path(__file__).parents[1] / "experiments" / "bench"
WORDS = ["--devices", "cpu", "--width", "0.125", "--at-once", "1", "--windows", "1", "--seconds", "0.1"]
ONE = ["--paths", "eager", "--activations", "relu"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paths", "eagre"], "unknown path on cpu 'eagre' (did you mean 'eager'?); choose from: baseline, eager"),
        (["--paths", "eager,graph"], "unknown path on cpu 'graph'; choose from: baseline, eager"),
        (["--activations", "swish"], "unknown activation 'swish'; choose from: maxout, relu, vlrelu, tanh, sigmoid"),
        (["--profile", "nowhere/a.txt"], "--profile nowhere/a.txt: there is no folder nowhere; make it"),
        (["--out", "/dev/null/a"], "cannot write /dev/null/a: Not a directory; give another --out or --profile"),
    ],
)
def test_a_wrong_choice_is_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path), *WORDS, *words]) == 2
    assert capsys.readouterr().err == f"bench: {message}\n"
    assert not list(tmp_path.iterdir())


def test_the_command_works_anywhere_and_writes_for_people_and_programs(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), *WORDS, *ONE, "--out", "out", "--profile", "kernels.txt"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = tmp_path.glob("out/*.json")
    page = found.with_suffix(".md").read_text()
    assert done.stdout.endswith(f"{page}\nwrote {found.with_suffix('.md').relative_to(tmp_path)}\n")
    assert f"- Command: `python experiments/bench {' '.join(command[2:])}`" in page
    assert re.search(r"\| relu \| 1 \| eager \| .* \| – \|", page)
    (row,) = json.loads(found.read_text())["rows"]
    assert (row["path"], row["activation"], row["at_once"]) == ("eager", "relu", 1)
    assert row["iterations_per_second"] > 0
    assert (tmp_path / "kernels.txt").read_text().startswith("relu, 1 at once, eager: 4 iterations\n")


def test_a_failed_measurement_is_one_sentence_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.compare.MEASURE", "builtins:int")  # it does not take what a measurement takes
    assert main(["--out", str(tmp_path), *WORDS, *ONE]) == 1
    err = capsys.readouterr().err
    assert err.startswith("bench: a measurement failed: relu, 1 at once, eager: the process ended: ")
    assert "TypeError" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (("workers:die", (signal.SIGTERM,)), "the process ended: killed by SIGTERM"),
        (("workers:fail", ("so it fails",)), "the process ended: .*so it fails.* (.*ValueError: so it fails)"),
        (("builtins:str", ()), "<function .*>"),  # it returns text
    ],
)
def test_a_process_that_fails_says_why(task: tuple[str, tuple[Any, ...]], reason: str) -> None:
    with LocalLauncher(preload=PRELOAD) as launcher, pytest.raises(MeasurementError, match=reason):
        carry_out(launcher, [task], os.environ)


def test_every_run_of_the_queue_is_carried_out_and_counted() -> None:
    with LocalLauncher(preload=PRELOAD) as launcher:
        (one, a), (three, b) = queue_cost(launcher, (1, 3))
    assert (one, three) == (1, 3)
    assert a > 0
    assert b > 0
