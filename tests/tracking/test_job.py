"""The report job, read back from its offline file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wandb_log import closed, items
from workers import put

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.document import document
from replicate.report.table import build
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect
from replicate.tracking.job import log_report, report_id
from replicate.tracking.runs import offline_runs, record_artifact, wandb_id

Make = Callable[..., Result]
CURVE = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n4,1,0.01,2,20,2,30\n8,2,0.01,1,50,1,60\n"


def fill(out: Path, results: list[Result]) -> Records:
    for result in results:
        folder = out / "runs" / result.run.run_id
        put(result, folder)
        (folder / "curve.csv").write_text(CURVE)
    return collect(out, [result.run for result in results])


def test_table_figures_and_verdicts_with_their_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Experiment, make_result: Make
) -> None:
    monkeypatch.chdir(tmp_path)  # what is to be uploaded must be found from elsewhere, too
    out, runs = Path("out"), experiment.runs()
    done = [make_result(run, accuracy) for run, accuracy in zip(runs, (60.0, None), strict=False)]
    records = fill(out, done)
    identity = log_report(experiment, runs, records, out, "offline")
    (folder,) = offline_runs(out)
    assert folder.name.endswith(f"-{identity}")
    found = closed(folder)

    (run,) = (record.run for record in found if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("lsuv-replication", "two by two", "report")
    (history,) = (items(record.history) for record in found if record.HasField("history"))
    for figure in ("accuracy", "curves"):
        assert (folder / "files" / history[f"figures/{figure}/path"]).read_bytes().startswith(b"\x89PNG")

    table = json.loads((folder / "files" / history["accuracy/path"]).read_text())
    cells = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    keys = ("init", "activation", "mean", "finished", "published")
    assert [tuple(cell[key] for key in keys) for cell in cells] == [
        ("lsuv", "relu", 60.0, 1, "92.11"),
        ("lsuv", "sigmoid", None, 1, "n/c"),
        ("xavier", "relu", None, 0, "90.63"),
        ("xavier", "sigmoid", None, 0, "n/c"),
    ]
    claims = json.loads((folder / "files" / history["claims/path"]).read_text())
    assert claims["columns"] == ["id", "claim", "verdict", "reason", "effect"]
    assert len(claims["data"]) == len(json.loads(_logged(found, "verdicts.json").read_text())["claims"]) > 0

    summary: dict[str, Any] = {}
    for record in found:
        summary |= items(record.summary) if record.HasField("summary") else {}
    assert (summary["finished"], summary["missing"]) == (2, 2)
    assert summary["verdicts/not comparable"] == 4  # no cell compares: 8 iterations

    used = [record.artifact for record in found if record.HasField("artifact") and record.artifact.use_after_commit]
    assert [artifact.name for artifact in used] == [f"record-{wandb_id(r.run, r.fingerprint)}" for r in done]
    for artifact, result in zip(used, done, strict=True):
        # Equal content, equal version: this is the artifact that the training has logged.
        logged = record_artifact(result.run, result.fingerprint, out / "runs" / result.run.run_id)
        assert artifact.digest == logged.digest
        assert artifact.type == logged.type == "record"
    report = next(r.artifact for r in found if r.HasField("artifact") and r.artifact.type == "report")
    assert report.name == "report-two-by-two"
    names = {entry.path for entry in report.manifest.contents}
    assert {"verdicts.json", "table.md", "table.csv", "table.tex", "runs.csv", "figures/accuracy.png"} <= names
    for record in found:
        for entry in record.artifact.manifest.contents:
            assert Path(entry.local_path).is_relative_to(tmp_path / "out")
            assert Path(entry.local_path).is_file()

    # What was uploaded is not logged again; new numbers are another report.
    next(folder.glob("*.wandb")).with_suffix(".wandb.synced").touch()
    assert log_report(experiment, runs, records, out, "offline") is None
    changed = fill(out, [replace(done[0], test_accuracy=61.0), done[1]])
    assert report_id(document(build(experiment, runs, changed, out))) != identity


def _logged(found: list[Any], path: str) -> Path:
    entries = [entry for record in found for entry in record.artifact.manifest.contents]
    (local,) = (Path(entry.local_path) for entry in entries if entry.path == path)
    return local


def test_there_is_no_report_on_nothing(tmp_path: Path, experiment: Experiment) -> None:
    with pytest.raises(UsageError, match="holds no finished run of two by two"):
        log_report(experiment, experiment.runs(), Records({}, {}, 0), tmp_path, "offline")
    assert not list(tmp_path.iterdir())


def test_the_record_artifact_knows_content_from_content(tmp_path: Path, make_result: Make) -> None:
    run = Run("lsuv", "relu")
    folder = tmp_path / "runs" / run.run_id
    put(make_result(run, 60.0), folder)
    first = record_artifact(run, "ab" * 32, folder).digest
    assert record_artifact(run, "ab" * 32, folder).digest == first
    put(make_result(run, 61.0), folder)
    assert record_artifact(run, "ab" * 32, folder).digest != first
