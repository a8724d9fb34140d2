"""Which finished runs are run again, and the folder in which that is done."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from replicate.errors import UsageError
from replicate.store.result import Result
from replicate.store.run_folder import Records

FOLDER = "verify"  # below the output folder
KEPT = "last"  # below that: reruns that differed, for those who want to look


def draw(records: Records, count: int | None, seed: int, out: Path) -> dict[str, Result]:
    """Draw a sample of the finished runs.

    The order is that of sha256 over `seed/run_id`: the same on every machine and whichever others have finished, and a
    larger sample holds the smaller one.

    Args:
        records: what there is of the runs asked for.
        count: how many; None: all.
        seed: of the draw.
        out: the output folder, for the message.

    Returns:
        run_id -> record, at most `count`.

    Raises:
        UsageError: none has finished.
    """
    finished = {run_id: result for run_id, result in records.results.items() if result.status != "error"}
    if not finished:
        raise UsageError(f"{out} holds no finished run to verify; see `replicate status FILE --out {out}`")
    order = sorted(finished, key=lambda run_id: hashlib.sha256(f"{seed}/{run_id}".encode()).digest())
    return {run_id: finished[run_id] for run_id in order[:count]}


def rerun_folder(out: Path) -> Path:
    """Make the folder for the reruns, `out/verify`: the records themselves are never written.

    What a stopped call has left there is gone on with.

    Raises:
        UsageError: it is a symbolic link.
    """
    folder = out / FOLDER
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link, and nothing is written through one; remove it")
    return folder


def clear(folder: Path, keep: bool) -> None:
    """Remove the reruns, or put them aside as `verify/last` in place of those of an earlier call."""
    if not keep:
        shutil.rmtree(folder)
    elif (folder / "runs").is_dir():
        shutil.rmtree(folder / KEPT, ignore_errors=True)
        (folder / "runs").rename(folder / KEPT)


def check_data(recorded: Mapping[str, Result], fingerprints: Mapping[str, str]) -> None:
    """Refuse to run again on other data: it would prove nothing.

    Args:
        recorded: run_id -> record.
        fingerprints: of the data at hand, by the name that runs have for it.

    Raises:
        UsageError: names both fingerprints.
    """
    for run_id, result in recorded.items():
        here = fingerprints[result.run.dataset]
        if result.fingerprint != here:
            raise UsageError(
                f"{run_id} was run on data with fingerprint {result.fingerprint}, but {result.run.dataset} here has "
                f"{here}; name the data it was run on with --data-dir"
            )
