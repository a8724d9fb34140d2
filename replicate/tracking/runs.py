"""W&B runs as this project keeps them: project, ids, names, offline folders, and the artifact of a record."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from replicate.run import Run
from replicate.store.run_folder import CURVE, LAYERS, PREDICTIONS, RESULT

PROJECT = "lsuv-replication"
FILES = (RESULT, CURVE, LAYERS, PREDICTIONS)  # of a run, in its artifact


def wandb_id(run: Run, fingerprint: str) -> str:
    """The id of a Run's W&B run: its run_id and 6 digits of its data, on which the same settings are another run."""
    return f"{run.run_id}-{fingerprint[:6]}"


def display_name(run: Run) -> str:
    """The run_id with a seed of two digits, so that names sort by initialisation, activation and seed."""
    return f"{run.init}-{run.activation}-s{run.seed:02d}-{run.run_id.rpartition('-')[2]}"


def record_artifact(run: Run, fingerprint: str, folder: Path) -> Any:
    """Make the artifact of a finished run's files: the same content gives the same version, whoever logs it.

    The files are taken from where they lie when they are uploaded; nothing is copied.
    """
    import wandb  # here, because it takes a second to import and most commands need none of it

    artifact = wandb.Artifact(f"record-{wandb_id(run, fingerprint)}", type="record")
    for file in FILES:
        if (folder / file).is_file():
            artifact.add_file(str((folder / file).resolve()), name=file, policy="immutable", skip_cache=True)
    return artifact


def offline_runs(folder: Path) -> list[Path]:
    """The offline W&B runs in `folder/wandb/`, oldest first."""
    return sorted(path for path in folder.glob("wandb/offline-run-*") if list(path.glob("run-*.wandb")))


def was_synced(path: Path) -> bool:
    """Whether an offline run was uploaded: `wandb sync` leaves a mark."""
    return bool(list(path.glob("*.wandb.synced")))


def discard(folder: Path, identity: str) -> None:
    """Remove the offline runs of an id, for a new one is to take their place: W&B cannot go on with them.

    Args:
        folder: in whose `wandb/` they are.
        identity: the id; `?` stands for any character.
    """
    for path in folder.glob(f"wandb/offline-run-*-{identity}"):
        shutil.rmtree(path)
    if not offline_runs(folder):
        shutil.rmtree(folder / "wandb" / "artifacts", ignore_errors=True)  # the copies that they wanted to upload


@contextlib.contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Within, W&B keeps the copies that it uploads later in `folder/wandb/`, unless the user has said where.

    Its own choice is the home folder, where nobody looks for them or removes them.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder / "wandb")
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]
