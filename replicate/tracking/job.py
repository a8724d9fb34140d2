"""The report job: a W&B run that holds an experiment's table, figures and verdicts, and says from which records."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from replicate.experiment import Experiment
from replicate.report.document import Document, document
from replicate.report.figures import draw
from replicate.report.render import cell_rows, cells_csv, runs_csv, write_table
from replicate.report.table import build
from replicate.run import Run
from replicate.store.run_folder import Records, RunFolder
from replicate.tracking.runs import PROJECT, discard, offline_runs, record_artifact, staged_in, was_synced


def log_report(experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path, mode: str) -> str | None:
    """Log an experiment's accuracy table, figures, and the verdicts as an artifact, to a W&B run of job type `report`.

    The run's id holds a hash of what the report says. Offline reports of the experiment that were not uploaded yet are
    removed for this one, and one that was uploaded with the same content is not logged again.

    The artifact's inputs are the records of the runs, as the training logged them.

    Args:
        experiment: names the group.
        runs: those of the table.
        records: what `out` holds of them.
        out: the output folder; tables, figures and W&B's own files are written to it.
        mode: `offline` or `online`.

    Returns:
        The W&B run's id; None if the same report was uploaded before.

    Raises:
        UsageError: as of the table: no run has finished, or the records do not go together.
    """
    table = build(experiment, runs, records, out)
    doc = document(table)
    identity = report_id(doc)
    if any(was_synced(path) and path.name.endswith(f"-{identity}") for path in offline_runs(out)):
        return None
    out = out.resolve()  # what is uploaded later is looked for from elsewhere
    files = [*write_table(doc, out), *draw(table, out, out / "figures")]
    import wandb  # here, because it takes a second to import and most commands need none of it

    discard(out, f"report-{_plain(experiment.name)}-{8 * '?'}")
    with (
        staged_in(out),
        wandb.init(
            project=PROJECT,
            group=experiment.name,
            job_type="report",
            name=f"report {experiment.name}",
            id=identity,
            dir=out,
            mode=mode,  # type: ignore[arg-type]  # one of WANDB_MODES but off
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(console="off", silent=True),
        ) as run,
    ):
        for result in table.results:
            if result.status != "error":
                folder = RunFolder.of(out, result.run).path
                _use(run, record_artifact(result.run, result.fingerprint, folder), mode)
        pictures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in files if path.suffix == ".png"}
        run.log({"accuracy": _accuracy(doc), "claims": _claims(doc), **pictures})
        run.summary.update(_summary(doc))
        artifact = wandb.Artifact(f"report-{_plain(experiment.name)}", type="report")
        for path in files:
            artifact.add_file(str(path), name=str(path.relative_to(out)))
        with artifact.new_file("verdicts.json", encoding="utf-8") as file:
            file.write(verdicts(doc))
        run.log_artifact(artifact)
    return identity


def report_id(doc: Document) -> str:
    """The id of a report's W&B run: the same for the same numbers, verdicts and runs."""
    digest = hashlib.sha256((cells_csv(doc) + runs_csv(doc) + verdicts(doc)).encode()).hexdigest()
    return f"report-{_plain(doc['experiment'])}-{digest[:8]}"


def verdicts(doc: Document) -> str:
    """The verdicts on published numbers and claims as JSON."""
    row, column = doc["axes"]
    numbers = [
        {row: cell["row"], column: cell["column"], "published": cell["published"], **cell["verdict"]}
        for cell in doc["cells"]
        if cell["verdict"]["word"]
    ]
    claims = [{key: claim[key] for key in ("id", "text", "verdict", "reason")} for claim in doc["claims"]]
    content = {"experiment": doc["experiment"], "fingerprint": doc["protocol"]["fingerprint"]}
    return json.dumps(content | {"numbers": numbers, "claims": claims}, indent=1) + "\n"


def _use(run: Any, artifact: Any, mode: str) -> None:
    """Declare an artifact as an input of a W&B run."""
    if mode == "online":
        run.use_artifact(artifact)
    else:
        # use_artifact refuses offline runs, for it waits for the server's answer; what it sends waits for the upload.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _accuracy(doc: Document) -> Any:
    import wandb

    rows = cell_rows(doc)
    columns = {name: _one_type([row[name] for row in rows]) for name in rows[0]}
    return wandb.Table(columns=list(columns), data=[list(row) for row in zip(*columns.values(), strict=True)])


def _claims(doc: Document) -> Any:
    import wandb

    rows: list[Any] = [
        [*(claim[key] for key in ("id", "text", "verdict", "reason")), claim["effect"] and claim["effect"]["value"]]
        for claim in doc["claims"]
    ]
    return wandb.Table(columns=["id", "claim", "verdict", "reason", "effect"], data=rows)


def _summary(doc: Document) -> dict[str, object]:
    said = doc["summary"]
    return {
        "finished": said["finished"],
        "missing": len(doc["missing"]),
        "data": doc["protocol"]["data_label"],
        "fingerprint": doc["protocol"]["fingerprint"],
        **{f"verdicts/{word}": count for word, count in said["published"].items()},
        **{f"judged/{word}": count for word, count in said["claims"].items()},
    }


def _one_type(values: list[Any]) -> list[Any]:
    """A column's values as text if any is text, such as the paper's `n/c`: W&B's tables mix no types."""
    known = [None if value == "" else value for value in values]
    mixed = any(isinstance(value, str) for value in known)
    return [str(value) if mixed and value is not None else value for value in known]


def _plain(name: str) -> str:
    """A name with nothing but what W&B takes in the names of artifacts."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)
