"""Uploads and the report job: what is logged, what `wandb sync` is given, and what is printed."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wandb_log import closed, items, table
from workers import put, record

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.logging_options import WandbProject
from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import collect
from replicate.tracking import sync as module
from replicate.tracking.logger import offline_runs
from replicate.tracking.sync import sync

CURVE = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n4,1,0.01,2,20,2,30\n8,2,0.01,1,50,1,60\n"


def put_record(out: Path, run: Run, **changes: Any) -> Path:
    return put(replace(record(run, Options(out)), **changes), out / "runs" / run.run_id)


def offline(folder: Path, identity: str, synced: bool = False) -> Path:
    path = folder / "wandb" / f"offline-run-20260101_000000-{identity}"
    path.mkdir(parents=True)
    (path / f"run-{identity}.wandb").write_bytes(b":W&B\xbe\xe1\x00")
    if synced:
        (path / f"run-{identity}.wandb.synced").touch()
    return path


@pytest.fixture
def out(tmp_path: Path, experiment: Experiment) -> Path:
    """Four runs (waiting, uploaded, in progress, an error without W&B), a waiting report, and one of another name."""
    out = tmp_path / "out\x1b[2J"
    waiting, uploaded, in_progress, failed = experiment.runs()
    put_record(out, waiting).with_name("curve.csv").write_text(CURVE)
    put_record(out, uploaded, status="diverged", test_accuracy=None)
    offline(out / "runs" / waiting.run_id, f"{waiting.run_id}-3f3f3f")
    offline(out / "runs" / uploaded.run_id, f"{uploaded.run_id}-3f3f3f", synced=True)
    offline(out / "runs" / in_progress.run_id, f"{in_progress.run_id}-3f3f3f")
    put_record(out, failed, status="error", test_accuracy=None, error="boom")
    offline(out, "report-two-by-two-01234567")
    offline(out, "report-two-by-two-more-01234567", synced=True)
    return out


@pytest.mark.parametrize("folder", ["wandb", "figures", "RUN/wandb"])
def test_nothing_is_logged_or_uploaded_through_a_link(
    out: Path, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    victim, runs = tmp_path / "victim", experiment.runs()
    victim.write_text("mine")
    link = out / folder.replace("RUN", f"runs/{runs[0].run_id}") / "link"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(victim)
    with pytest.raises(UsageError, match="link is a symbolic link, and nothing is written through one"):
        sync(experiment, runs, collect(out, runs), out)
    assert victim.read_text() == "mine"


def test_a_dry_run_and_one_without_a_key_change_nothing(
    out: Path, experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    before, runs = sorted(out.rglob("*")), experiment.runs()
    assert sync(experiment, runs, collect(out, runs), out, dry_run=True) == 0
    first, counts, *paths = capsys.readouterr().out.splitlines()
    assert first == "would log a report job on 2 finished runs"
    assert counts == "2 offline W&B runs to upload, 2 uploaded before, 1 of runs that have not ended"
    assert [Path(path).parent.parent.name for path in paths] == [runs[0].run_id, r"out\x1b[2J"]
    assert sync(experiment, runs[3:], collect(out, runs[3:]), out, dry_run=True) == 0
    assert capsys.readouterr().out.startswith("no finished run to report on\n1 offline W&B runs to upload")
    with pytest.raises(UsageError, match="no W&B key is known on this machine; give one by `wandb login`"):
        sync(experiment, runs, collect(out, runs), out)
    assert sorted(out.rglob("*")) == before


# In place of `wandb sync`: marks what it is given as uploaded, but a run with ReLU only at the second try
FAKE = """
import pathlib, sys
print("given", *sys.argv[1:])
for path in filter(pathlib.Path.is_dir, map(pathlib.Path, sys.argv[2:])):
    if "relu" not in path.name or (path / "tried").exists():
        next(path.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    (path / "tried").touch()
"""


def test_report_then_upload_then_the_rest(
    out: Path, experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WANDB", (sys.executable, "-c", FAKE))
    monkeypatch.setenv("WANDB_API_KEY", key := "0123456789abcdef" * 2 + "deadbeef")
    monkeypatch.chdir(out.parent)  # the upload looks for the files from elsewhere
    runs, out = experiment.runs(), Path(out.name)
    assert [sync(experiment, runs, collect(out, runs), out) for _ in range(3)] == [1, 0, 0]
    printed = capfd.readouterr().out
    first, second = (line.split() for line in printed.splitlines() if line.startswith("given sync"))
    (trained,) = offline_runs(out.resolve() / "runs" / runs[0].run_id)
    _, report = offline_runs(out.resolve())  # it has replaced the one that was waiting
    assert (first[2:], second[2:]) == ([str(trained), str(report)], [str(trained)])
    assert "1 were not uploaded; run the command again to retry them" in printed
    assert printed.count("report job: uploaded before, and nothing has changed") == 2
    assert not [path for path in out.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]

    # The options replace the project and the entity with which a run was logged.
    (trained / f"run-{runs[0].run_id}-3f3f3f.wandb.synced").unlink()
    where = WandbProject(wandb_project="mine", wandb_entity="me")
    assert sync(experiment, runs, collect(out, runs), out, where) == 0
    assert f"given sync --project mine --entity me {trained}" in capfd.readouterr().out

    # The report holds table, claims and figures. Other numbers would give it another id.
    found = closed(report)
    (run,) = (record.run for record in found if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("lsuv-replication", "two by two", "report")
    content = (out / "table.json").read_bytes()
    assert run.run_id == f"report-two-by-two-{hashlib.sha256(content).hexdigest()[:8]}"
    (history,) = (items(record.history) for record in found if record.HasField("history"))
    for figure in ("accuracy", "curves"):
        assert (report / "files" / history[f"figures/{figure}/path"]).read_bytes().startswith(b"\x89PNG")
    cells = [(cell["mean"], cell["finished"], cell["published"]) for cell in table(report, history, "accuracy")]
    assert cells == [(50.0, 1, 92.11), (None, 1, "n/c"), (None, 0, 90.63), (None, 0, "n/c")]
    assert all(claim["verdict"] for claim in table(report, history, "claims"))
    artifact = next(one.artifact for one in found if one.HasField("artifact") and one.artifact.type == "report")
    assert artifact.name == "report-two-by-two"
    paths = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    assert {"table.md", "table.csv", "table.tex", "table.json", "runs.csv", "figures/accuracy.png"} <= paths.keys()
    assert all(path.is_relative_to(out.resolve()) and path.is_file() for path in paths.values())


def test_wandb_itself_accepts_the_paths(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(offline(tmp_path, "some-id"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Would sync 1 run(s)" in done.stderr + done.stdout
