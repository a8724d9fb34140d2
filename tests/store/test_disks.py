"""Disks that are full: nothing torn is left, and a later call repairs everything."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicate.errors import DISK, transient_kind
from replicate.matrix.task import Task
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result
from replicate.store.run_folder import OWNER, RunFolder
from replicate.worker import run_task

TINY = Run("msra", "relu", dataset="synthetic", width=0.125, iterations=6, milestones=[], batch_size=25,
           precision="32-true")  # fmt: skip


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def attempt(out: Path, previous_result: Result | None = None) -> Result | None:
    """Carry out the run once, and read its record."""
    options = Options(out, checkpoint_seconds=0.0)
    run_task(Task(TINY, options, "cpu", "token", previous_result=previous_result), print)
    return RunFolder.of(out, TINY).record()


def test_a_full_disk_is_a_transient_error_and_a_later_call_repairs_everything(tmp_path: Path) -> None:
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    with no_file_longer_than(10), pytest.raises(OSError, match="File too large") as caught:  # no room for a lease
        attempt(out)
    assert transient_kind(caught.value) == DISK
    folder = RunFolder.of(out, TINY)
    assert os.listdir(folder.path) == []
    with no_file_longer_than(20_000):  # room for the record, none for a checkpoint
        failed = attempt(out)
    assert (failed.status, failed.passing) == ("error", "disk")
    assert {*os.listdir(folder.path)} == {"result.json", "curve.csv", "layers.json"}
    repaired, whole = attempt(out, failed), attempt(undisturbed)
    assert repaired.final
    assert (repaired.train_loss, repaired.init) == (whole.train_loss, whole.init)
    assert folder.curve_bytes() == RunFolder.of(undisturbed, TINY).curve_bytes()
    assert {*os.listdir(folder.path)} == {"result.json", "curve.csv", "layers.json", "predictions.npz"}
    (entry,) = repaired.history
    assert (entry["attempt"], "File too large" in entry["reason"]) == (1, True)


def test_a_full_disk_leaves_what_was_there_and_nothing_torn(tmp_path: Path) -> None:
    with acquire(RunFolder(tmp_path), Owner("cpu", 1)) as lease:
        lease.write("file", "before")
        with no_file_longer_than(1000), pytest.raises(OSError, match="File too large"):
            lease.write("file", "x" * 5000)
        assert (tmp_path / "file").read_text() == "before"
        assert os.listdir(lease.staging_dir) == [OWNER]
    assert os.listdir(tmp_path) == ["file"]


def test_the_heartbeat_continues_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.store.lease.HEARTBEAT_SECONDS", 0.01)
    with acquire(RunFolder(tmp_path), Owner("cpu", 1)) as lease:
        file = lease.staging_dir / OWNER
        before = file.stat().st_mtime_ns
        with no_file_longer_than(10), lease.heartbeat(lambda: pytest.fail("lost")):
            while file.stat().st_mtime_ns == before:
                pass
