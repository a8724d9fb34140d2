"""One attempt at a run: its lease, the record that is there, and the record of a process that died."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from workers import put, record

from replicate.matrix.task import Busy, Done, Failed, GraphFailed, Task, record_death
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import NAME, acquire
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder
from replicate.store.watch import LeaseWatch
from replicate.worker import run_task

RUN = Run("lsuv", "relu", dataset="synthetic")
FAILING = replace(RUN, seed=1)


def task(out: Path, run: Run = RUN, **settings: object) -> Task:
    return Task(run, Options(out), "cpu", "token", train="workers:train", **settings)


def send(*_: object) -> None:
    pass


def failed(out: Path, run: Run, error: str) -> Result:
    result = replace(record(run, Options(out)), status="error", test_accuracy=None, error=error)
    put(result, out / "runs" / run.run_id)
    return result


def test_an_attempt_leaves_the_record_and_no_lease(tmp_path: Path) -> None:
    ending = run_task(task(tmp_path), send)
    assert isinstance(ending, Done)
    assert ending.ours
    assert read_result(tmp_path / "runs" / RUN.run_id / "result.json") == ending.result
    assert [path.name for path in (tmp_path / "runs" / RUN.run_id).iterdir()] == ["result.json"]


def test_what_another_holds_is_left_alone(tmp_path: Path) -> None:
    with acquire(RunFolder(tmp_path / "runs" / RUN.run_id), Owner("gpu 3", 10)):
        assert run_task(task(tmp_path), send) == Busy()
        assert record_death(task(tmp_path), "killed", "killed", 1.0) == Busy()
    assert list(tmp_path.rglob("result.json")) == []


def test_what_another_has_finished_or_failed_meanwhile_is_not_done_again(tmp_path: Path) -> None:
    path = put(record(RUN, Options(tmp_path), "elsewhere"), tmp_path / "runs" / RUN.run_id)
    ending = run_task(task(tmp_path), send)
    assert (ending.result.device, ending.ours) == ("elsewhere", False)
    assert record_death(task(tmp_path), "killed", "killed", 1.0).result.final  # it died after its record was written
    assert read_result(path).device == "elsewhere"
    new = failed(tmp_path, RUN, "boom")
    ending = run_task(task(tmp_path, previous_result=replace(new, seconds=9.0)), send)
    assert (ending.result, ending.ours) == (new, False)


def test_the_attempts_before_are_kept_in_the_record(tmp_path: Path) -> None:
    known = failed(tmp_path, RUN, "Traceback\n  line\nOSError: first")
    folder = tmp_path / "runs" / RUN.run_id
    (folder / "log.txt").write_text("what it said")
    unrecorded = [{"when": "then", "reason": "unrecorded"}]
    done = record_death(
        task(tmp_path, previous_result=known, unrecorded=unrecorded), "killed by SIGKILL", "killed", 2.0
    )
    assert done.result.error == "what it said\nkilled by SIGKILL"
    assert (done.result.passing, done.result.seconds) == ("killed", 2.0)
    reasons = [(entry["attempt"], entry["reason"]) for entry in done.result.history]
    assert reasons == [(1, "OSError: first"), (2, "unrecorded")]
    ending = run_task(task(tmp_path, previous_result=done.result), send)
    assert ending.result.final
    reasons = [(entry["attempt"], entry["reason"]) for entry in read_result(folder / "result.json").history]
    assert reasons == [(1, "OSError: first"), (2, "unrecorded"), (3, "killed by SIGKILL")]


@pytest.mark.parametrize("content", ["", "[]", '{"accuracy": 99}', "another run's"])
def test_a_record_that_is_none_is_set_aside_by_who_holds_the_claim(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "runs" / RUN.run_id
    folder.mkdir(parents=True)
    if content == "another run's":
        content = put(record(FAILING, Options(tmp_path)), tmp_path / "runs" / FAILING.run_id).read_text()
    for number in (1, 2):  # nothing set aside before is overwritten
        (folder / "result.json").write_text(content)
        assert run_task(task(tmp_path), send).ours
        assert (folder / f"result.json.set-aside-{number}").read_text() == content
        assert read_result(folder / "result.json").final


def test_a_graph_that_fails_asks_for_a_new_process_and_stays_in_the_log(tmp_path: Path) -> None:
    run = replace(RUN, seed=9)
    first = task(tmp_path, run)
    first.folder.path.mkdir(parents=True)
    first.folder.log.write_text("what the graph said")
    assert run_task(replace(first, options=replace(first.options, graph_failure="graph: it differs")), send).ours
    assert first.folder.log.read_text() == "what the graph said"
    first.folder.result.unlink()
    assert run_task(first, send) == GraphFailed("graph: its losses differ")
    assert first.folder.log.read_text() == ""  # an attempt begins with an empty log
    assert not (first.folder.path / NAME).exists()


def test_a_failure_without_a_record_says_whether_it_may_pass(tmp_path: Path) -> None:
    assert run_task(task(tmp_path, FAILING), send) == Failed("ValueError: seed 1 fails", None)
    full = run_task(task(tmp_path, replace(RUN, seed=8)), send)
    assert full == Failed("OSError: [Errno 28] No space left on device", "disk")
    assert LeaseWatch().look(RunFolder(tmp_path / "runs" / FAILING.run_id)) is None


def test_an_attempt_that_lost_its_lease_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / RUN.run_id

    def usurped(iteration: int, accuracy: float | None) -> None:
        os.rename(folder / NAME / "token", folder / "gone")
        assert acquire(RunFolder(folder), Owner("cpu", 10, place="elsewhere"), "usurper") is not None

    assert run_task(task(tmp_path), usurped) == Busy()
    assert not (folder / "result.json").exists()
    assert LeaseWatch().look(RunFolder(folder)).token == "usurper"
    assert json.loads((folder / NAME / "usurper" / "owner.json").read_text())["place"] == "elsewhere"
