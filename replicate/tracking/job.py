"""The report job: a W&B run that holds an experiment's table, figures and verdicts, and says from which records."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicate.experiment import Experiment
from replicate.report.figures import draw
from replicate.report.table import Table, build
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
    said = verdicts(table)
    identity = report_id(experiment, table, said)
    if any(was_synced(path) and path.name.endswith(f"-{identity}") for path in offline_runs(out)):
        return None
    out = out.resolve()  # what is uploaded later is looked for from elsewhere
    files = [*table.write(out), *draw(experiment, runs, records, out, out / "figures")]
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
        run.log({"accuracy": _accuracy(table), "claims": _claims(table), **pictures})
        run.summary.update(_summary(table))
        artifact = wandb.Artifact(f"report-{_plain(experiment.name)}", type="report")
        for path in files:
            artifact.add_file(str(path), name=str(path.relative_to(out)))
        with artifact.new_file("verdicts.json", encoding="utf-8") as file:
            file.write(said)
        run.log_artifact(artifact)
    return identity


def report_id(experiment: Experiment, table: Table, said: str) -> str:
    """The id of a report's W&B run: the same for the same numbers, verdicts and runs."""
    digest = hashlib.sha256((table.csv() + table.runs_csv() + said).encode()).hexdigest()
    return f"report-{_plain(experiment.name)}-{digest[:8]}"


def verdicts(table: Table) -> str:
    """The verdicts on published numbers and claims as JSON."""
    numbers = [
        {table.axes[0]: row, table.axes[1]: column, "published": entry.published, **asdict(entry.verdict)}
        for (row, column), entry in table.entries.items()
        if entry.verdict.word
    ]
    claims = [
        {"id": one.claim.id, "text": one.claim.text, "verdict": one.verdict, "reason": one.reason}
        for one in table.judgements
    ]
    content = {"experiment": table.name, "fingerprint": table.protocol.fingerprint}
    return json.dumps(content | {"numbers": numbers, "claims": claims}, indent=1) + "\n"


def _use(run: Any, artifact: Any, mode: str) -> None:
    """Declare an artifact as an input of a W&B run."""
    if mode == "online":
        run.use_artifact(artifact)
    else:
        # use_artifact refuses offline runs, for it waits for the server's answer; what it sends waits for the upload.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _accuracy(table: Table) -> Any:
    import wandb

    rows = list(csv.DictReader(io.StringIO(table.csv())))
    columns = {name: _values([row[name] for row in rows]) for name in rows[0]}
    return wandb.Table(columns=list(columns), data=[list(row) for row in zip(*columns.values(), strict=True)])


def _claims(table: Table) -> Any:
    import wandb

    rows: list[Any] = [
        [one.claim.id, one.claim.text, one.verdict, one.reason, one.effect.value if one.effect else None]
        for one in table.judgements
    ]
    return wandb.Table(columns=["id", "claim", "verdict", "reason", "effect"], data=rows)


def _summary(table: Table) -> dict[str, object]:
    words = Counter(entry.verdict.word for entry in table.entries.values() if entry.verdict.word)
    claims = Counter(one.verdict for one in table.judgements)
    return {
        "finished": sum(result.status != "error" for result in table.results),
        "missing": len(table.missing),
        "data": table.protocol.data_label,
        "fingerprint": table.protocol.fingerprint,
        **{f"verdicts/{word}": count for word, count in words.items()},
        **{f"judged/{word}": count for word, count in claims.items()},
    }


def _values(texts: list[str]) -> list[Any]:
    """A column's values: numbers if all are, else texts, for W&B's tables mix no types; None for what is empty."""
    try:
        return [float(text) if text else None for text in texts]
    except ValueError:  # such as the paper's `n/c` among its numbers
        return [text or None for text in texts]


def _plain(name: str) -> str:
    """A name with nothing but what W&B takes in the names of artifacts."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)
