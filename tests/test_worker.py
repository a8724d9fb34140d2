"""One attempt at a run: its lease, the record that it finds, and the record of a process that died."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from odd_files import KINDS, make_odd
from workers import ended, put, record

from replicate.logging_options import Logging
from replicate.matrix.task import TRAIN, GraphFailed, State, Task, record_failure
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import LeaseWatch, Owner
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.worker import run_task

RUN = Run("lsuv", "relu", dataset="synthetic")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """The folder of RUN, which is empty."""
    RunFolder.of(tmp_path, RUN).path.mkdir(parents=True)
    return RunFolder.of(tmp_path, RUN)


def task(out: Path, run: Run = RUN, **settings: object) -> Task:
    return Task(run, Options(out), "cpu", "token", train="workers:train", **settings)


def send(*_: object) -> None:
    pass


def reasons(result: Result) -> list[tuple[int, str]]:
    return [(entry["attempt"], entry["reason"]) for entry in result.history]


def test_an_attempt_leaves_the_record_and_no_lease(tmp_path: Path, folder: RunFolder) -> None:
    result = run_task(task(tmp_path), send)
    assert folder.record() == result
    assert list(folder.path.iterdir()) == [folder.result]


def test_a_damaged_wandb_stops_no_run(tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    monkeypatch.delitem(sys.modules, "replicate.tracking.logger", raising=False)
    one = task(tmp_path)
    assert (
        run_task(replace(one, options=replace(one.options, logging=Logging(wandb="offline"))), send) == folder.record()
    )


def test_a_run_whose_lease_another_process_holds_is_not_touched(tmp_path: Path, folder: RunFolder) -> None:
    with acquire(folder, Owner("gpu 3", 10)):
        assert run_task(task(tmp_path), send) is State.ELSEWHERE
        assert record_failure(task(tmp_path), "killed", "killed", 1.0) is State.ELSEWHERE
    assert not folder.result.exists()


def test_a_run_that_has_finished_or_failed_elsewhere_is_not_repeated(tmp_path: Path, folder: RunFolder) -> None:
    put(record(RUN, Options(tmp_path), "elsewhere"), folder.path)
    assert run_task(task(tmp_path), send) is State.ELSEWHERE
    # as if the process had died after it had written its record
    assert record_failure(task(tmp_path), "killed", "killed", 1.0).device == "elsewhere"
    new = ended(RUN, "error")
    put(new, folder.path)
    assert run_task(task(tmp_path, previous_result=replace(new, seconds=9.0)), send) is State.ELSEWHERE
    assert folder.record() == new


def test_the_attempts_before_are_kept_in_the_record(tmp_path: Path, folder: RunFolder) -> None:
    known = ended(RUN, "error", error="Traceback\n  line\nOSError: first")
    put(known, folder.path)
    folder.log.write_text("what it said")
    second = task(tmp_path, previous_result=known, unrecorded=[{"when": "then", "reason": "unrecorded"}])
    died = record_failure(second, "killed by SIGKILL", "killed", 2.0)
    assert (died.error, died.passing, died.seconds) == ("what it said\nkilled by SIGKILL", "killed", 2.0)
    assert reasons(died) == [(1, "OSError: first"), (2, "unrecorded")]
    folder.log.write_text("x\x1b" * 100_000)
    assert record_failure(task(tmp_path, previous_result=died), "killed", None, 2.0) == folder.record()
    put(died, folder.path)
    final = run_task(task(tmp_path, previous_result=died), send)
    assert final.final
    assert reasons(final) == [(1, "OSError: first"), (2, "unrecorded"), (3, "killed by SIGKILL")]


def test_a_damaged_record_is_set_aside(tmp_path: Path, folder: RunFolder) -> None:
    for number, content in ((1, ""), (2, '{"accuracy": 99}')):  # nothing set aside before is overwritten
        folder.result.write_text(content)
        assert run_task(task(tmp_path), send).final
        assert (folder.path / f"result.json.set-aside-{number}").read_text() == content
        assert folder.record().final


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_set_aside_once(
    tmp_path: Path, folder: RunFolder, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.data.synthetic.TRAIN", 100)
    monkeypatch.setattr("replicate.data.synthetic.TEST", 20)
    names = ("result.json", "curve.csv", "layers.json", "predictions.npz", "checkpoint.pt")
    for name in names:
        make_odd(folder.path / name, kind, tmp_path / "victim")
    run = replace(RUN, init="xavier", width=0.125, iterations=2, milestones=[], batch_size=16, precision="32-true")
    folder.path.rename(folder.path.with_name(run.run_id))
    folder = RunFolder.of(tmp_path, run)
    result = run_task(replace(task(tmp_path, run), train=TRAIN), send)
    assert (result.status, result.error) == ("not_converged", None)
    assert folder.record() == result
    kept = {path.name.partition(".set-aside-")[0] for path in folder.path.iterdir() if "set-aside" in path.name}
    # the others are replaced, which is no harm to where a link leads
    assert kept == ({*names} if kind == "folder" else {"result.json", "checkpoint.pt"})
    if kind == "link":
        assert (tmp_path / "victim").read_text() == "precious"


def test_a_graph_that_fails_asks_for_a_new_process_and_stays_in_the_log(tmp_path: Path) -> None:
    first = task(tmp_path, replace(RUN, seed=9))
    first.folder.path.mkdir(parents=True)
    first.folder.log.write_text("what the graph said")
    assert run_task(replace(first, options=replace(first.options, graph_failure="graph: it differs")), send).final
    assert first.folder.log.read_text() == "what the graph said"
    first.folder.result.unlink()
    assert run_task(first, send) == GraphFailed("graph: its losses differ")
    assert first.folder.log.read_text() == ""  # an attempt begins with an empty log
    assert not first.folder.lease.exists()


def test_an_attempt_that_lost_its_lease_writes_nothing(tmp_path: Path, folder: RunFolder) -> None:
    def usurped(iteration: int, accuracy: float | None, stage: str) -> None:
        if stage:
            return
        os.rename(folder.lease / "token", folder.path / "gone")
        assert acquire(folder, Owner("cpu", 10, place="elsewhere"), "usurper") is not None

    assert run_task(task(tmp_path), usurped) is State.ELSEWHERE
    assert not folder.result.exists()
    lease = LeaseWatch().look(folder)
    assert (lease.token, lease.owner.place) == ("usurper", "elsewhere")
