"""The scheduler, with real processes that take the place of trainings: see workers.train for what each seed does."""

import os
import pwd
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from permissions import restricted
from rich.console import Console
from slurm_cluster import wait
from workers import SYNTHETIC, ended, put, record

from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import unfinished_runs
from replicate.matrix.resources import END_SECONDS, Deadline, Slot, make_slots
from replicate.matrix.scheduler import MatrixSummary, Scheduler
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease, acquire
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder

Schedule = Callable[..., MatrixSummary]


@pytest.fixture
def text() -> StringIO:
    return StringIO()


@pytest.fixture
def schedule(launcher: LocalLauncher, tmp_path: Path, text: StringIO) -> Schedule:
    """Carry out runs on two GPUs that need not exist."""

    def carry_out(*runs: Run, each: int = 1, **more: object) -> MatrixSummary:
        with Display(Console(file=text, width=300)) as display:
            slots = make_slots("0,1", each, 1, gpus=2)
            todo = unfinished_runs(tmp_path, runs, {"synthetic": SYNTHETIC}, display)
            return Scheduler(launcher, slots, Options(tmp_path), display, train="workers:train", **more).run(runs, todo)

    return carry_out


def of_seed(seed: int, lr: float = 0.1) -> Run:
    return Run("lsuv", "relu", seed, dataset="synthetic", lr=lr)


def results(out: Path) -> dict[int, Result]:
    """The records by seed."""
    return {result.run.seed: result for result in map(read_result, out.glob("runs/*/result.json"))}


def hold(out: Path, run: Run, **owner: str) -> Lease:
    """Hold the lease of a run, as another command does: this very process is alive, unless it has started earlier."""
    lease = acquire(RunFolder.of(out, run), Owner("elsewhere", 10, **owner))
    assert lease is not None
    return lease


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Within, `act` runs in another thread."""
    with ThreadPoolExecutor() as pool:
        acting = pool.submit(act)
        yield
        acting.result()


def test_a_stage_of_the_start_is_shown_but_is_no_progress(launcher: LocalLauncher, tmp_path: Path) -> None:
    shown, counted, run = [], [], of_seed(0)

    class Recorder(Display):
        def progressed(self, run: Run, slot: Slot, *news: object) -> None:
            shown.append(news)

    class Counter(Deadline):
        def progressed(self, task: str) -> None:
            counted.append(task)

    display = Recorder(Console(file=StringIO()))
    scheduler = Scheduler(
        launcher, make_slots("cpu", 1, 1, 0), Options(tmp_path), display, train="workers:train", deadline=Counter()
    )
    assert scheduler.run([run], [run]) == MatrixSummary(0, 0)
    assert shown == [(0, None, "starting"), (0, None, "reading data"), (1, None, "")]
    assert counted == [run.run_id]


def test_a_checkpoint_that_was_set_aside_is_shown(text: StringIO) -> None:
    reason = "checkpoint.pt.set-aside-1: ValueError: its checksum is wrong"
    Display(Console(file=text, width=300)).ended(of_seed(0), replace(ended(of_seed(0)), set_aside=[reason]))
    assert f"because its checkpoint could not be used; set aside as {reason}\n" in text.getvalue()


def test_a_dead_lease_of_another_user_is_an_error_that_names_both(
    schedule: Schedule, tmp_path: Path, text: StringIO
) -> None:
    dead, other = of_seed(0), of_seed(4)
    lease = hold(tmp_path, dead, start="1").folder.lease
    with restricted(lease):
        assert schedule(dead, other) == MatrixSummary(errors=1, unfinished=0)
    me = pwd.getpwuid(os.getuid()).pw_name
    problem = f"{dead.run_id} cannot be carried out: {lease} is left from process {os.getpid()} on "
    assert text.getvalue().count(problem) == 1
    assert f", which is gone, and cannot be removed (Permission denied); it belongs to the user {me}" in text.getvalue()
    assert results(tmp_path).keys() == {4}
    with restricted(lease, mode=0o111):
        assert schedule(dead) == MatrixSummary(errors=1, unfinished=0)
    assert f"only the user {me} can read {lease}" in text.getvalue()
    assert schedule(dead) == MatrixSummary(errors=0, unfinished=0)


def test_a_failed_run_is_a_record_and_the_others_continue(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    runs = [of_seed(seed) for seed in (0, 1, 2, 4, 30)]
    put(record(runs[4], Options(tmp_path), "an earlier call"), RunFolder.of(tmp_path, runs[4]).path)
    assert schedule(of_seed(5)) == MatrixSummary(errors=0, unfinished=1)  # a signal ended it
    outcome = schedule(*runs)
    assert (outcome, outcome.exit_code) == (MatrixSummary(errors=2, unfinished=0), 1)
    found = results(tmp_path)
    assert [found[seed].status for seed in (0, 1, 2, 4)] == ["converged", "error", "error", "converged"]
    assert "ValueError: seed 1 fails" in found[1].error
    assert ("killed by SIGKILL" in found[2].error, found[2].passing) == (True, "killed")
    # each run sees its own device and no other
    assert {found[0].device, found[4].device} <= {"cuda sees '0'", "cuda sees '1'"}
    assert found[30].device == "an earlier call"
    for line in ("5 runs, 1 already done", "[5/5]", f"{runs[0].run_id}: converged 50.00 %"):
        assert line in text.getvalue()


def test_transient_errors_are_retried(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    assert schedule(*map(of_seed, (6, 8, 1)), retries=1) == MatrixSummary(errors=1, unfinished=0)
    found = results(tmp_path)
    assert [found[seed].status for seed in (6, 8, 1)] == ["converged", "converged", "error"]
    (killed,), (full,) = found[6].history, found[8].history
    assert (killed["attempt"], "killed by SIGKILL" in killed["reason"]) == (1, True)
    assert "No space left on device" in full["reason"]
    assert (found[1].history, found[1].passing) == ([], None)  # its own fault was not retried
    assert f"{of_seed(6).run_id} failed with a transient error (killed); retry 1 of 1" in text.getvalue()


def test_a_run_whose_graph_fails_starts_again_without_one(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    assert schedule(of_seed(0), of_seed(9)) == MatrixSummary(errors=0, unfinished=0)
    result = results(tmp_path)[9]
    assert (result.status, result.history) == ("converged", [])
    assert result.environment == {"step": "graph: its losses differ"}
    assert "starts again without a CUDA graph (graph: its losses differ)" in text.getvalue()


def test_out_of_memory_makes_room_on_the_gpu(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    assert schedule(of_seed(7), of_seed(0), each=3) == MatrixSummary(errors=0, unfinished=0)
    found = results(tmp_path)
    assert [entry["reason"] for entry in found[7].history] == ["CUDA out of memory"] * 2
    assert "ran out of memory on gpu 0 and is retried; from now on, at most 2 at a time run there" in text.getvalue()
    assert found[7].options["runs_per_device"] == 2  # of 3: each GPU has met the run, and made room for it
    assert found[0].options["runs_per_device"] == 3


@pytest.mark.parametrize("status", ["converged", "error"])
def test_a_run_of_another_command_is_awaited(schedule: Schedule, tmp_path: Path, text: StringIO, status: str) -> None:
    lease, result = hold(tmp_path, of_seed(4)), ended(of_seed(4), status)

    def end() -> None:
        wait(lambda: f"{result.run.run_id} is being run by process {os.getpid()} on" in text.getvalue(), "a note")
        with lease:
            lease.write_result(result)

    with meanwhile(end):
        summary = schedule(of_seed(0), of_seed(4), retries=3)
    assert summary == MatrixSummary(errors=int(status == "error"), unfinished=0)
    assert results(tmp_path)[4] == result


def test_the_lease_of_a_dead_process_is_taken_over(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    hold(tmp_path, of_seed(0), start="1")
    assert schedule(of_seed(0)) == MatrixSummary(errors=0, unfinished=0)
    assert f"{of_seed(0).run_id} is taken over from process {os.getpid()} on" in text.getvalue()


def test_a_worker_does_not_wait_for_the_runs_of_others(schedule: Schedule, tmp_path: Path, text: StringIO) -> None:
    lease = hold(tmp_path, of_seed(4))
    assert schedule(of_seed(0), of_seed(4), wait=False) == MatrixSummary(errors=0, unfinished=1)
    assert list(results(tmp_path)) == [0]
    assert lease.held
    assert "resumes" not in text.getvalue()


@pytest.mark.parametrize("failed", [False, True])
def test_a_worker_takes_a_run_that_is_freed(schedule: Schedule, tmp_path: Path, text: StringIO, failed: bool) -> None:
    slow, other = of_seed(10), of_seed(4)
    lease, error = hold(tmp_path, other), replace(ended(other, "error"), passing="killed")

    def free() -> None:
        wait(RunFolder.of(tmp_path, slow).lease.exists, "a start")
        with lease:
            if failed:
                lease.write_result(error)
        wait(lambda: "[1/2]" in text.getvalue(), "an end")
        (tmp_path / "go").touch()

    with meanwhile(free):
        assert schedule(other, slow, retries=3, wait=False) == MatrixSummary(errors=int(failed), unfinished=0)
    assert (results(tmp_path)[4] == error) is failed


def test_a_time_limit_stops_the_runs(
    schedule: Schedule, tmp_path: Path, text: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = [of_seed(3, lr) for lr in (0.1, 0.2, 0.3)]
    error = put(ended(slow[0], "error"), RunFolder.of(tmp_path, slow[0]).path)  # it does not count until it is repeated
    assert schedule(*slow, deadline=Deadline(1.0)) == MatrixSummary(errors=0, unfinished=3)
    assert list(tmp_path.glob("runs/*/*")) == [error]
    monkeypatch.setattr("replicate.matrix.resources.START_SECONDS", 0.1)
    # Seven of ten seconds pass as soon as a run has begun.
    deadline = Deadline(END_SECONDS + 7, clock=lambda: 7.0 if list(tmp_path.glob("runs/*/claim")) else 0.0)
    outcome = schedule(*slow, deadline=deadline)
    assert (outcome, outcome.exit_code) == (MatrixSummary(errors=0, unfinished=3), 3)
    assert text.getvalue().count("time limit reached") == 2
    assert not list(tmp_path.glob("runs/*/claim"))
