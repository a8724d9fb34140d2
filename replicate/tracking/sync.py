"""Uploading what was logged offline, through W&B's own `wandb sync`."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.options import wandb_key_known
from replicate.run import Run
from replicate.store.run_folder import Records, RunFolder
from replicate.tracking.runs import offline_runs, was_synced

# As a module of this Python: the command `wandb` may be another installation's, or not on the path.
WANDB = (sys.executable, "-m", "wandb")


@dataclass(frozen=True, slots=True)
class Uploads:
    """Offline W&B runs.

    Args:
        waiting: those to upload.
        done: how many were uploaded before.
        under_way: how many belong to runs that have not come to their end: an upload now would leave their rest out.
    """

    waiting: tuple[Path, ...]
    done: int
    under_way: int

    def __str__(self) -> str:
        more = f", {self.under_way} of runs that have not ended" if self.under_way else ""
        return f"{len(self.waiting)} offline W&B runs to upload, {self.done} uploaded before{more}"


def find(out: Path, runs: Sequence[Run], records: Records) -> Uploads:
    """Find the offline W&B runs of these runs and of their reports in an output folder."""
    ended = [
        path for run in runs if run.run_id in records.results for path in offline_runs(RunFolder.of(out, run).path)
    ]
    others = [
        path for run in runs if run.run_id not in records.results for path in offline_runs(RunFolder.of(out, run).path)
    ]
    known = [*ended, *offline_runs(out)]
    return Uploads(
        tuple(path for path in known if not was_synced(path)), sum(map(was_synced, known)), under_way=len(others)
    )


def require_key() -> None:
    """Refuse to go on without a W&B key.

    Raises:
        UsageError: none is known.
    """
    if not wandb_key_known():
        raise UsageError("no W&B key is known on this machine; give one by `wandb login` or in WANDB_API_KEY")


def upload(paths: Sequence[Path], out: Path) -> list[Path]:
    """Upload offline W&B runs, and return those that `wandb sync` has not marked as uploaded.

    Args:
        paths: their folders.
        out: the output folder, in which W&B keeps its log of the upload.
    """
    subprocess.run([*WANDB, "sync", *(str(path.resolve()) for path in paths)], cwd=out, check=False)
    return [path for path in paths if not was_synced(path)]


def sync(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    out: Path,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Log the report job of an experiment, and upload it with the offline W&B runs of its trainings.

    Args:
        experiment: names the report.
        runs: those to upload and to report on.
        records: what `out` holds of them.
        out: the output folder.
        dry_run: only say what would be done.
        say: takes each line for the user.

    Returns:
        The exit code: 0, or 1 if something was not uploaded.

    Raises:
        UsageError: no W&B key is known.
    """
    finished = sum(result.status != "error" for result in records.results.values())
    if dry_run:
        uploads = find(out, runs, records)
        say(f"would log a report job on {finished} finished runs" if finished else "no finished run to report on")
        say(str(uploads))
        for path in uploads.waiting:
            say(f"would upload {path}")
        return 0
    require_key()
    if finished:
        from replicate.tracking.job import log_report  # here, for a refusal and a dry run need no figures

        logged = log_report(experiment, runs, records, out, "offline")
        say(f"report job: {logged}" if logged else "report job: uploaded before, and nothing has changed")
    uploads = find(out, runs, records)
    say(str(uploads))
    left = upload(uploads.waiting, out) if uploads.waiting else []
    if left:
        say(f"{len(left)} were not uploaded; the same command tries them again")
    return int(bool(left))
