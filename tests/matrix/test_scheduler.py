"""The scheduler, with real processes that stand in for trainings."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from workers import put, record

from replicate.matrix.display import Display
from replicate.matrix.limit import END_SECONDS, Limit
from replicate.matrix.local import LocalLauncher
from replicate.matrix.scheduler import Outcome, run_all
from replicate.matrix.slots import make_slots
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder, collect

RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in (0, 1, 2, 4)]


def run(
    launcher: LocalLauncher, runs: list[Run], todo: list[Run], out: Path, text: StringIO, each: int = 1, **more: object
) -> Outcome:
    slots = make_slots("0,1", each, 1, gpus=2)
    with Display(Console(file=text, width=300)) as display:
        return run_all(launcher, runs, todo, slots, Options(out), display, train="workers:train", **more)


@contextmanager
def as_soon_as(condition: Callable[[], object], act: Callable[[], object]) -> Iterator[None]:
    """Act from another thread once a condition holds, or in vain after five minutes: nothing waits for ever."""
    gone, end = threading.Event(), time.monotonic() + 300

    def watch() -> None:
        while not condition() and not gone.wait(0.05) and time.monotonic() < end:
            pass
        if not gone.is_set():
            act()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        gone.set()
        thread.join()


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 300
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def of_seed(seed: int) -> Run:
    return Run("lsuv", "relu", seed, dataset="synthetic")


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
    put(record(RUNS[0], Options(tmp_path), "an earlier call"), tmp_path / "runs" / RUNS[0].run_id)
    text = StringIO()
    outcome = run(launcher, [RUNS[0], RUNS[3]], [RUNS[3]], tmp_path, text)
    assert outcome == Outcome(errors=0, left=0)
    assert collect(tmp_path, RUNS).results[RUNS[0].run_id].device == "an earlier call"
    assert "2 runs, 1 are done already" in text.getvalue()


def test_a_signal_stops_cleanly_and_the_rest_is_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow = [Run("lsuv", "relu", seed, dataset="synthetic", lr=lr) for lr in (0.1, 0.2, 0.3) for seed in (0, 3)]
    handler = signal.getsignal(signal.SIGINT)
    text = StringIO()
    with as_soon_as(lambda: list(tmp_path.glob("runs/*/result.json")), lambda: os.kill(os.getpid(), signal.SIGINT)):
        outcome = run(launcher, slow, slow, tmp_path, text)
    assert outcome.exit_code == 3
    assert outcome.errors == 0
    assert 3 <= outcome.left < 6  # the three slow ones have no record, and leave a slot at most once
    assert "the same command resumes them" in text.getvalue()
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_failed_run_that_was_not_tried_again_is_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow = [Run("lsuv", "relu", 3, dataset="synthetic", lr=lr) for lr in (0.1, 0.2, 0.3)]
    for one in slow:
        failed = replace(record(one, Options(tmp_path)), status="error", test_accuracy=None, error="earlier")
        put(failed, tmp_path / "runs" / one.run_id)
    with as_soon_as(lambda: list(tmp_path.glob("runs/*/claim")), lambda: os.kill(os.getpid(), signal.SIGUSR1)):
        outcome = run(launcher, slow, slow, tmp_path, StringIO())
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


def test_what_may_pass_is_tried_again_and_its_history_kept(launcher: LocalLauncher, tmp_path: Path) -> None:
    runs, text = [of_seed(seed) for seed in (6, 8, 1)], StringIO()
    assert run(launcher, runs, runs, tmp_path, text, retries=1) == Outcome(errors=1, left=0)
    results = {r.run.seed: r for r in collect(tmp_path, runs).results.values()}
    assert [results[seed].status for seed in (6, 8, 1)] == ["converged", "converged", "error"]
    (killed,), (full,) = results[6].history, results[8].history
    assert (killed["attempt"], "killed by SIGKILL" in killed["reason"]) == (1, True)
    assert "No space left on device" in full["reason"]
    assert (results[1].history, results[1].passing) == ([], None)  # its own fault was not tried again
    assert f"{runs[0].run_id} failed with a transient error (killed); retry 1 of 1" in text.getvalue()


def test_without_retries_what_may_pass_is_an_error_for_the_next_call(launcher: LocalLauncher, tmp_path: Path) -> None:
    runs = [of_seed(6)]
    assert run(launcher, runs, runs, tmp_path, StringIO()) == Outcome(errors=1, left=0)
    assert collect(tmp_path, runs).results[runs[0].run_id].passing == "killed"
    assert run(launcher, runs, runs, tmp_path, StringIO()) == Outcome(errors=0, left=0)


def test_a_run_whose_graph_fails_starts_again_without_one(launcher: LocalLauncher, tmp_path: Path) -> None:
    text, runs = StringIO(), [of_seed(0), of_seed(9)]
    assert run(launcher, runs, runs, tmp_path, text) == Outcome(errors=0, left=0)
    result = collect(tmp_path, runs).results[runs[1].run_id]
    assert (result.status, result.history) == ("converged", [])
    assert result.environment == {"step": "graph: its losses differ"}
    assert f"{runs[1].run_id} starts again without a CUDA graph (graph: its losses differ)" in text.getvalue()


def test_out_of_memory_makes_room_on_the_gpu(launcher: LocalLauncher, tmp_path: Path) -> None:
    runs, text = [of_seed(7), of_seed(0)], StringIO()
    assert run(launcher, runs, runs, tmp_path, text, each=3) == Outcome(errors=0, left=0)
    result = collect(tmp_path, runs).results[runs[0].run_id]
    assert [entry["reason"] for entry in result.history] == ["CUDA out of memory"] * 2
    assert "ran out of memory on gpu 0 and is retried; from now on, at most 2 at a time run there" in text.getvalue()
    assert result.options["runs_per_device"] == 2  # of 3: each GPU has met the run, and made room for it
    assert collect(tmp_path, runs).results[runs[1].run_id].options["runs_per_device"] == 3


def test_a_run_of_another_command_is_waited_for(launcher: LocalLauncher, tmp_path: Path) -> None:
    one, other = of_seed(0), of_seed(4)
    folder, text = tmp_path / "runs" / other.run_id, StringIO()
    holding = acquire(RunFolder(folder), Owner("elsewhere", 10, iteration=7))  # this very process, which is alive

    def finish() -> None:
        holding.write_result(replace(record(other, Options(tmp_path)), device="another"))
        release(RunFolder(folder), holding.token)

    with as_soon_as(lambda: "is being run by" in text.getvalue(), finish):
        assert run(launcher, [one, other], [one, other], tmp_path, text) == Outcome(errors=0, left=0)
    assert collect(tmp_path, [other]).results[other.run_id].device == "another"
    assert f"{other.run_id} is being run by process {os.getpid()} on" in text.getvalue()
    assert "[2/2]" in text.getvalue()


def test_what_a_dead_process_held_is_taken_over(launcher: LocalLauncher, tmp_path: Path) -> None:
    one, text = of_seed(0), StringIO()
    assert acquire(RunFolder(tmp_path / "runs" / one.run_id), Owner("cpu", 10, start="1")) is not None
    assert run(launcher, [one], [one], tmp_path, text) == Outcome(errors=0, left=0)
    assert f"{one.run_id} is taken over from process {os.getpid()} on" in text.getvalue()


def test_an_error_that_another_command_met_meanwhile_is_not_repeated(launcher: LocalLauncher, tmp_path: Path) -> None:
    one = of_seed(0)
    folder = tmp_path / "runs" / one.run_id
    holding = acquire(RunFolder(folder), Owner("elsewhere", 10))
    error = replace(record(one, Options(tmp_path)), status="error", test_accuracy=None, error="its own fault")

    def fail() -> None:
        holding.write_result(error)
        release(RunFolder(folder), holding.token)

    text = StringIO()
    with as_soon_as(lambda: "is being run by" in text.getvalue(), fail):
        assert run(launcher, [one], [one], tmp_path, text, retries=3) == Outcome(errors=1, left=0)
    assert collect(tmp_path, [one]).results[one.run_id] == error


def test_a_worker_does_not_wait_for_the_runs_of_others(launcher: LocalLauncher, tmp_path: Path) -> None:
    one, other, text = of_seed(0), of_seed(4), StringIO()
    held = acquire(RunFolder.of(tmp_path, other), Owner("elsewhere", 10))
    assert run(launcher, [one, other], [one, other], tmp_path, text, wait=False) == Outcome(errors=0, left=1)
    assert list(collect(tmp_path, [one, other]).results) == [one.run_id]
    assert held is not None
    assert held.held
    assert "waiting for it" not in text.getvalue()
    assert "resumes" not in text.getvalue()


def test_a_worker_takes_a_run_that_becomes_free(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow, other, text = of_seed(10), of_seed(4), StringIO()
    held = acquire(RunFolder.of(tmp_path, other), Owner("elsewhere", 10))
    assert held is not None

    def free() -> None:
        release(held.folder, held.token)
        wait_until(lambda: RunFolder.of(tmp_path, other).record())
        (tmp_path / "go").touch()

    with as_soon_as(lambda: list(RunFolder.of(tmp_path, slow).path.glob("claim/*")), free):
        outcome = run(launcher, [other, slow], [other, slow], tmp_path, text, wait=False)
    assert outcome == Outcome(errors=0, left=0)


def test_a_worker_leaves_what_fails_in_another_to_the_other(launcher: LocalLauncher, tmp_path: Path) -> None:
    slow, other, text = of_seed(10), of_seed(4), StringIO()
    held = acquire(RunFolder.of(tmp_path, other), Owner("elsewhere", 10))
    assert held is not None
    error = replace(record(other, Options(tmp_path)), status="error", test_accuracy=None, error="x", passing="killed")

    def fail() -> None:
        held.write_result(error)
        release(held.folder, held.token)
        wait_until(lambda: "[1/2]" in text.getvalue())
        (tmp_path / "go").touch()

    with as_soon_as(lambda: list(RunFolder.of(tmp_path, slow).path.glob("claim/*")), fail):
        outcome = run(launcher, [other, slow], [other, slow], tmp_path, text, retries=3, wait=False)
    assert outcome == Outcome(errors=1, left=0)
    assert RunFolder.of(tmp_path, other).record() == error


def test_a_time_limit_ends_what_runs_and_starts_nothing_more(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, text = [Run("lsuv", "relu", 3, dataset="synthetic", lr=lr) for lr in (0.1, 0.2, 0.3)], StringIO()
    assert run(launcher, slow, slow, tmp_path, text, limit=Limit(1.0)) == Outcome(errors=0, left=3)
    assert "no further run can reach a checkpoint" in text.getvalue()
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr("replicate.matrix.limit.START_SECONDS", 0.1)
    # Seven of ten seconds pass as soon as a run has begun.
    limit = Limit(END_SECONDS + 7, clock=lambda: 7.0 if list(tmp_path.glob("runs/*/claim")) else 0.0)
    outcome = run(launcher, slow, slow, tmp_path, text, limit=limit)
    assert (outcome, outcome.exit_code) == (Outcome(errors=0, left=3), 3)
    assert "time limit reached" in text.getvalue()
    assert not list(tmp_path.glob("runs/*/claim"))
