"""Disks that are full or cannot be written: nothing torn is left, and a later call repairs all."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.cli import main
from replicate.data import synthetic
from replicate.matrix.task import Done, Failed, Task
from replicate.options import Options
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.lease import NAME, acquire
from replicate.store.owner import Owner, parse_owner
from replicate.store.result import read_result
from replicate.store.run_folder import RunFolder
from replicate.worker import run_task

TINY = Run("msra", "relu", dataset="synthetic", width=0.125, iterations=6, milestones=[], batch_size=25,
           precision="32-true")  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four iterations a pass."""
    monkeypatch.setattr(synthetic, "TRAIN", 100)
    monkeypatch.setattr(synthetic, "TEST", 20)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system in memory."""
    folder.mkdir()
    try:
        words = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(words, check=False, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"there is no mount: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@contextlib.contextmanager
def no_file_longer_than(most: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def task(out: Path, **settings: object) -> Task:
    return Task(TINY, Options(out, checkpoint_seconds=0.0), "cpu", "token", **settings)


def names(out: Path) -> set[str]:
    return {path.name for path in (out / "runs" / TINY.run_id).iterdir()}


def repaired_like_undisturbed(out: Path, undisturbed: Path, **settings: object) -> None:
    again, whole = (run_task(task(one, **settings), print) for one in (out, undisturbed))
    assert isinstance(again, Done)
    assert isinstance(whole, Done)
    assert again.result.final
    assert (again.result.train_loss, again.result.init) == (whole.result.train_loss, whole.result.init)
    curves = [(one / "runs" / TINY.run_id / "curve.csv").read_bytes() for one in (out, undisturbed)]
    assert curves[0] == curves[1]
    assert names(out) == {"result.json", "curve.csv", "layers.json", "predictions.npz"}


def test_a_file_that_cannot_grow_is_an_error_of_the_passing_kind(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with no_file_longer_than(20_000):  # room for the record, none for a checkpoint
        ending = run_task(task(out), print)
    assert isinstance(ending, Done)
    assert (ending.result.status, ending.result.passing) == ("error", "disk")
    assert "File too large" in ending.result.error
    assert read_result(out / "runs" / TINY.run_id / "result.json") == ending.result
    assert names(out) == {"result.json", "curve.csv", "layers.json"}
    repaired_like_undisturbed(out, tmp_path / "whole", previous_result=ending.result)
    history = read_result(out / "runs" / TINY.run_id / "result.json").history
    assert [(entry["attempt"], "File too large" in entry["reason"]) for entry in history] == [(1, True)]


def test_a_full_disk_leaves_what_was_there_and_nothing_torn(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        write_atomically(disk / "file", "before")
        with acquire(RunFolder(disk), Owner("cpu", 1)) as holding:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(OSError, match="No space left"):
                holding.write("file", "x" * 5000)
            assert (disk / "file").read_text() == "before"
            assert parse_owner((holding.staging_dir / "owner.json").read_bytes()) is not None
        assert {path.name for path in disk.iterdir()} == {"file", "filler"}
        ending = run_task(task(disk), print)
        assert isinstance(ending, Failed)
        assert ending.passing == "disk"
        assert "No space left on device" in ending.reason
        filler.unlink()
        remount(disk, "size=64m")
        repaired_like_undisturbed(disk, tmp_path / "whole")


def test_a_heart_beats_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.store.lease.HEARTBEAT_SECONDS", 0.01)
    with acquire(RunFolder(tmp_path), Owner("cpu", 1)) as holding:
        file = holding.staging_dir / "owner.json"
        before = file.stat().st_mtime_ns
        with no_file_longer_than(10), holding.heartbeat(lambda: pytest.fail("lost")):
            while file.stat().st_mtime_ns == before:
                pass
    assert not (tmp_path / NAME).exists()


def test_an_output_folder_that_is_read_only_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(tmp_path / "disk", "size=1m,ro") as disk:
        smoke = str(Path(__file__).parents[2] / "experiments" / "smoke.yaml")
        assert main(["matrix", smoke, "--out", str(disk / "out"), "--devices", "cpu"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot write to the output folder" in line
        assert "Read-only file system" in line


def test_a_disk_that_turns_read_only_is_an_error_of_the_passing_kind(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        known = replace(run_task(task(disk), print).result)
        assert known.final
        (disk / "runs" / TINY.run_id / "result.json").unlink()
        remount(disk, "ro")
        ending = run_task(task(disk), print)
        assert isinstance(ending, Failed)
        assert (ending.passing, "Read-only file system" in ending.reason) == ("disk", True)
        remount(disk, "rw")
        repaired_like_undisturbed(disk, tmp_path / "whole")
