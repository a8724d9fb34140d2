"""The scheduler, with real processes that stand in for trainings."""

import os
import signal
import threading
from dataclasses import replace
from io import StringIO
from pathlib import Path

from rich.console import Console
from workers import record

from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.scheduler import Outcome, run_all
from replicate.matrix.slots import make_slots
from replicate.options import Options
from replicate.results import collect
from replicate.run import Run

RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in (0, 1, 2, 4)]


def run(launcher: LocalLauncher, runs: list[Run], todo: list[Run], out: Path, text: StringIO) -> Outcome:
    slots = make_slots("0,1", None, 1, gpus=2)
    with Display(Console(file=text, width=300)) as display:
        return run_all(launcher, runs, todo, slots, Options(out), display, worker="workers:train")


def test_a_run_that_fails_is_a_record_and_the_rest_go_on(launcher: LocalLauncher, tmp_path: Path) -> None:
    text = StringIO()
    outcome = run(launcher, RUNS, RUNS, tmp_path, text)
    assert outcome == Outcome(errors=2, left=0)
    assert outcome.exit_code == 1
    results = {r.run.seed: r for r in collect(tmp_path, RUNS).results.values()}
    assert [results[seed].status for seed in (0, 1, 2, 4)] == ["converged", "error", "error", "converged"]
    assert "ValueError: seed 1 fails" in results[1].error
    assert "killed by SIGKILL" in results[2].error
    # each run sees its own device and no other
    assert {results[0].device, results[4].device} <= {"cuda sees '0'", "cuda sees '1'"}
    assert "[4/4]" in text.getvalue()
    assert f"{RUNS[0].run_id}: converged 50.00 %" in text.getvalue()


def test_only_what_is_left_is_run(launcher: LocalLauncher, tmp_path: Path) -> None:
    record(RUNS[0], Options(tmp_path), "an earlier call").write(tmp_path / "runs" / RUNS[0].run_id)
    text = StringIO()
    outcome = run(launcher, [RUNS[0], RUNS[3]], [RUNS[3]], tmp_path, text)
    assert outcome == Outcome(errors=0, left=0)
    assert collect(tmp_path, RUNS).results[RUNS[0].run_id].device == "an earlier call"
    assert "2 runs, 1 are done already" in text.getvalue()


def test_a_signal_stops_cleanly_and_the_rest_is_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow = [Run("lsuv", "relu", seed, dataset="synthetic", lr=lr) for lr in (0.1, 0.2, 0.3) for seed in (0, 3)]
    handler = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    text = StringIO()
    outcome = run(launcher, slow, slow, tmp_path, text)
    timer.join()
    assert outcome.exit_code == 3
    assert outcome.errors == 0
    assert 3 <= outcome.left < 6  # the three slow ones have no record, and leave a slot at most once
    assert "the same command goes on" in text.getvalue()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_failed_run_that_was_not_tried_again_is_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow = [Run("lsuv", "relu", 3, dataset="synthetic", lr=lr) for lr in (0.1, 0.2, 0.3)]
    for one in slow:
        failed = replace(record(one, Options(tmp_path)), status="error", test_accuracy=None, error="earlier")
        failed.write(tmp_path / "runs" / one.run_id)
    timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    outcome = run(launcher, slow, slow, tmp_path, StringIO())
    timer.join()
    assert outcome == Outcome(errors=0, left=3)
    assert outcome.exit_code == 3


def test_a_run_that_a_signal_ended_is_left_not_failed(launcher: LocalLauncher, tmp_path: Path) -> None:
    runs = [Run("lsuv", "relu", 5, dataset="synthetic"), RUNS[0]]
    outcome = run(launcher, runs, runs, tmp_path, StringIO())
    assert outcome == Outcome(errors=0, left=1)
    assert list(collect(tmp_path, runs).results) == [RUNS[0].run_id]


def test_exit_codes() -> None:
    assert Outcome(errors=0, left=0).exit_code == 0
    assert Outcome(errors=5, left=0).exit_code == 1
    assert Outcome(errors=5, left=1).exit_code == 3
