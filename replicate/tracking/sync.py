"""Uploads what was logged offline, with a report job: a W&B run that holds an experiment's table and figures."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.logging_options import WandbProject, wandb_key_known
from replicate.run import Run
from replicate.store.files import escape_control_chars, refuse_links_out
from replicate.store.run_folder import Records, RunFolder
from replicate.tracking.logger import discard, init_wandb_run, offline_runs

# As a module of this Python: the command `wandb` may be another installation's, or not on the path. -P: nothing is
# imported from the output folder, which may come from somebody else.
WANDB = (sys.executable, "-P", "-m", "wandb")


def sync(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    out: Path,
    where: WandbProject = WandbProject(),
    dry_run: bool = False,
) -> int:
    """Log the report job of an experiment, and upload it with the offline W&B runs of its trainings.

    An upload leaves out what is logged later, so runs that have not ended are not uploaded.

    Args:
        experiment: names the report.
        runs: those to upload and to report on.
        records: what `out` holds of them.
        out: the output folder.
        where: project and entity of the report job, and of all uploads if they are given as options.
        dry_run: only print what would be done.

    Returns:
        The exit code: 0, or 1 if something was not uploaded.

    Raises:
        UsageError: no W&B key is known, or a link leads out of a folder that is to be uploaded.
    """
    finished = sum(result.final for result in records.results.values())
    if dry_run:
        print(f"would log a report job on {finished} finished runs" if finished else "no finished run to report on")
    else:
        require_key()
        if finished:
            logged = log_report(experiment, runs, records, out, where)
            print(f"report job: {logged}" if logged else "report job: uploaded before, and nothing has changed")
    logged_by = {run.run_id: offline_runs(RunFolder.of(out, run).path) for run in runs}
    ended = [path for run_id, paths in logged_by.items() if run_id in records.results for path in paths]
    unfinished = sum(map(len, logged_by.values())) - len(ended)
    known = [*ended, *offline_runs(out)]
    for folder in {path.parent for path in known}:
        refuse_links_out(folder)  # what they lead to would be uploaded
    waiting = [path for path in known if not was_synced(path)]
    counts = f"{len(waiting)} offline W&B runs to upload, {len(known) - len(waiting)} uploaded before"
    print(f"{counts}, {unfinished} of runs that have not ended" if unfinished else counts)
    if dry_run:
        for path in waiting:
            print(f"would upload {escape_control_chars(str(path))}")
        return 0
    if waiting:
        given = {"--project": where.wandb_project, "--entity": where.wandb_entity}
        options = [word for name, value in given.items() if value for word in (name, value)]
        subprocess.run([*WANDB, "sync", *options, *(str(path.resolve()) for path in waiting)], cwd=out, check=False)
    failed = sum(not was_synced(path) for path in waiting)
    if failed:
        print(f"{failed} were not uploaded; run the command again to retry them")
    return int(failed > 0)


def require_key() -> None:
    """Refuse to continue without a W&B key.

    Raises:
        UsageError: none is known.
    """
    if not wandb_key_known():
        raise UsageError("no W&B key is known on this machine; give one by `wandb login` or in WANDB_API_KEY")


def was_synced(path: Path) -> bool:
    """Whether an offline run was uploaded: `wandb sync` leaves a mark."""
    return bool(list(path.glob("*.wandb.synced")))


def log_report(
    experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path, where: WandbProject
) -> str | None:
    """Log an experiment's table, verdicts and figures to an offline W&B run of job type `report`.

    Its id holds a hash of the table's content. Earlier reports of the experiment that were not uploaded yet are
    removed, and one that was uploaded with the same content is not logged again.

    Args:
        experiment: names the group.
        runs: those of the table.
        records: what `out` holds of them.
        out: the output folder; tables, figures and W&B's own files are written to it.
        where: the project and the entity.

    Returns:
        The W&B run's id; None if the same report was uploaded before.

    Raises:
        UsageError: the records do not go together, or `out/figures` or `out/wandb` holds a link that leads out of it.
    """
    # Here, because a refusal and a dry run need no figures
    from replicate.report.document import document, strict_json
    from replicate.report.figures import draw
    from replicate.report.render import cell_rows, write_table

    doc = document(experiment, runs, records)
    name = "report-" + re.sub(r"[^A-Za-z0-9_.-]", "-", experiment.name)  # these are allowed in names of artifacts
    identity = f"{name}-{hashlib.sha256(strict_json(doc).encode()).hexdigest()[:8]}"
    if any(was_synced(path) for path in out.glob(f"wandb/offline-run-*-{identity}")):
        return None
    out = out.resolve()  # the upload looks for the files from another folder
    for folder in (out / "figures", out / "wandb"):
        refuse_links_out(folder)
    files = [*write_table(doc, out), *draw(doc, out, out / "figures")]
    claims = [{key: claim[key] for key in ("id", "text", "verdict", "reason")} for claim in doc["claims"]]
    discard(out, f"{name}-{8 * '?'}")
    with init_wandb_run(
        out, where, "offline", id=identity, group=experiment.name, job_type="report", name=f"report {experiment.name}"
    ) as run:
        pictures = {f"figures/{path.stem}": wandb.Image(str(path)) for path in files if path.suffix == ".png"}
        run.log({"accuracy": _wandb_table(cell_rows(doc)), "claims": _wandb_table(claims), **pictures})
        artifact = wandb.Artifact(name, type="report")
        for path in files:
            artifact.add_file(str(path), name=str(path.relative_to(out)))
        run.log_artifact(artifact)
    return identity


def _wandb_table(rows: Sequence[Mapping[str, Any]]) -> Any:
    columns: list[str | int] = [*rows[0]] if rows else []
    # The paper's numbers may be `n/c`.
    return wandb.Table(columns=columns, data=[[*row.values()] for row in rows], allow_mixed_types=True)
