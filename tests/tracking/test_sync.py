"""Uploads: what is found, what `wandb sync` is given, and what is said of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from workers import put

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.store.result import Result
from replicate.store.run_folder import collect
from replicate.tracking import sync as module
from replicate.tracking.runs import discard, offline_runs
from replicate.tracking.sync import find, sync, upload

Make = Callable[..., Result]
KEY = "0123456789abcdef" * 2 + "deadbeef"


def offline(folder: Path, identity: str, synced: bool = False) -> Path:
    path = folder / "wandb" / f"offline-run-20260101_000000-{identity}"
    path.mkdir(parents=True)
    (path / f"run-{identity}.wandb").write_bytes(b":W&B\xbe\xe1\x00")
    if synced:
        (path / f"run-{identity}.wandb.synced").touch()
    return path


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def out(tmp_path: Path, experiment: Experiment, make_result: Make) -> Path:
    """Four runs: waiting, uploaded, under way, and without W&B; and a report that waits."""
    out = tmp_path / "out"
    for number, run in enumerate(experiment.runs()):
        folder = out / "runs" / run.run_id
        if number != 2:
            put(make_result(run, 50.0), folder)
        if number != 3:
            offline(folder, f"{run.run_id}-3f3f3f", synced=number == 1)
    offline(out, "report-two-by-two-01234567")
    return out


def test_what_has_ended_and_was_not_uploaded_waits(out: Path, experiment: Experiment) -> None:
    runs = experiment.runs()
    found = find(out, runs, collect(out, runs))
    assert [path.parent.parent.name for path in found.waiting] == [runs[0].run_id, "out"]
    assert (found.done, found.under_way) == (1, 1)
    assert str(found) == "2 offline W&B runs to upload, 1 uploaded before, 1 of runs that have not ended"
    only = find(out, runs[3:], collect(out, runs[3:]))
    assert [path.parent.parent.name for path in only.waiting] == ["out"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(out: Path, experiment: Experiment) -> None:
    before = sorted(out.rglob("*"))
    said: list[str] = []
    assert sync(experiment, experiment.runs(), collect(out, experiment.runs()), out, dry_run=True, say=said.append) == 0
    assert said[0] == "would log a report job on 3 finished runs"
    assert said[2].startswith(f"would upload {out}/runs/lsuv-relu-s0-")
    assert sorted(out.rglob("*")) == before


def test_without_a_key_it_is_refused_before_anything_is_done(out: Path, experiment: Experiment) -> None:
    before = sorted(out.rglob("*"))
    with pytest.raises(UsageError, match="no W&B key is known on this machine; give one by `wandb login`"):
        sync(experiment, experiment.runs(), collect(out, experiment.runs()), out)
    assert sorted(out.rglob("*")) == before


FAKE = """
import json, pathlib, sys
given = pathlib.Path(sys.argv[1])
calls = given.read_text().splitlines() if given.exists() else []
given.write_text("\\n".join([*calls, json.dumps(sys.argv[2:])]))
for path in sys.argv[3:]:
    if "relu" not in path or calls:
        (file,) = pathlib.Path(path).glob("*.wandb")
        file.with_suffix(".wandb.synced").touch()
"""


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[list[str]]]:
    """A program in the place of `wandb`: marks what it is given as uploaded, but on its first call no run with relu."""
    (tmp_path / "fake.py").write_text(FAKE)
    given = tmp_path / "given"
    monkeypatch.setattr(module, "WANDB", (sys.executable, str(tmp_path / "fake.py"), str(given)))
    return lambda: [json.loads(line) for line in given.read_text().splitlines()]


def test_report_then_upload_then_again(
    out: Path, experiment: Experiment, uploads: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    runs, said = experiment.runs(), []
    assert sync(experiment, runs, collect(out, runs), out, say=said.append) == 1
    ((word, trained, report),) = uploads()
    assert word == "sync"
    assert trained.endswith(f"{runs[0].run_id}-3f3f3f")
    assert "report-two-by-two-" in report
    assert "01234567" not in report  # the report that was waiting has given way to this one
    assert said[-1] == "1 were not uploaded; the same command tries them again"
    assert sync(experiment, runs, collect(out, runs), out, say=said.append) == 0
    assert uploads()[1] == ["sync", trained]
    assert "report job: uploaded before, and nothing has changed" in said
    assert sync(experiment, runs, collect(out, runs), out, say=said.append) == 0
    assert len(uploads()) == 2
    assert not [path for path in out.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_an_error_is_no_finished_run(tmp_path: Path, experiment: Experiment, make_result: Make) -> None:
    run = experiment.runs()[0]
    failed = replace(make_result(run, None), status="error", error="boom")
    put(failed, tmp_path / "runs" / run.run_id)
    said: list[str] = []
    sync(experiment, experiment.runs(), collect(tmp_path, experiment.runs()), tmp_path, dry_run=True, say=said.append)
    assert said == ["no finished run to report on", "0 offline W&B runs to upload, 0 uploaded before"]


def test_wandb_itself_takes_the_paths(out: Path, tmp_path: Path) -> None:
    (path,) = offline_runs(out)
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}, check=True
    )
    assert "Would sync 1 run(s)" in done.stderr + done.stdout


def test_what_is_not_marked_is_left(out: Path, uploads: Callable[[], list[list[str]]], experiment: Experiment) -> None:
    waiting = [offline(out, "relu-1"), offline(out, "sigmoid-1")]
    assert upload(waiting, out) == waiting[:1]


def test_discarded_are_the_runs_of_that_id(tmp_path: Path) -> None:
    old, other = offline(tmp_path, "report-table3-01234567"), offline(tmp_path, "report-table3-short-01234567")
    copies = tmp_path / "wandb" / "artifacts" / "staging"
    copies.mkdir(parents=True)
    discard(tmp_path, "report-table3-????????")
    assert (old.exists(), other.exists(), copies.exists()) == (False, True, True)
    discard(tmp_path, "report-table3-short-????????")
    assert (other.exists(), copies.exists()) == (False, False)
