"""What a training needs around it: versions, room on the disks, data sets, Weights & Biases."""

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from replicate import provenance
from replicate.data import cache
from replicate.data.sources import available
from replicate.doctor.finding import Finding, gib
from replicate.options import SERVER, wandb_key_known, wandb_mode

LEAST_ROOM = 2**30  # bytes: a table's records and checkpoints, or CIFAR-10 unpacked


def versions() -> Iterator[Finding]:
    """Tell of the code and the libraries."""
    commit, dirty = provenance.commit()
    changes = {True: ", with changes that are not committed", False: "", None: ""}[dirty]
    yield Finding("versions", f"code: {commit}{changes}")
    for name, version in provenance.versions().items():
        good = False if version == "not installed" and name != "lsuv-replication" else None
        yield Finding("versions", f"{name} {version}", good, "make setup" if good is False else "")


def room(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Tell of the disks.

    Args:
        folders: what they are for -> where; they need not be there yet.
    """
    for purpose, path in folders.items():
        there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        free = shutil.disk_usage(there).free
        text = f"{purpose}: {path}, {gib(free)} free"
        if not there.is_dir():
            yield Finding("disk", f"{purpose}: {there} is no folder", False, f"name another folder for {purpose}")
        elif not os.access(there, os.W_OK):
            yield Finding("disk", f"{text}, not writable", False, f"name another folder for {purpose}, or its owner")
        elif free < LEAST_ROOM:
            yield Finding("disk", text, False, f"make room, or name another folder for {purpose}")
        else:
            yield Finding("disk", text)


def places(out: Path, data_dir: Path) -> dict[str, Path]:
    """Name the folders that are written: results, data, and decoded images."""
    return {"results (--out)": out, "data (--data-dir)": data_dir, "cache (REPLICATE_CACHE)": cache.folder()}


def data(data_dir: Path) -> Iterator[Finding]:
    """Tell which data sets are there."""
    for name, here in available(data_dir):
        if here:
            yield Finding("data", f"{name}: there", good=True)
        else:
            mend = f"it is downloaded at first use; without a network put cifar-10-python.tar.gz into {data_dir}"
            yield Finding("data", f"{name}: not in {data_dir}", mend=mend)


def wandb() -> Iterator[Finding]:
    """Tell how runs would be mirrored; the key itself is never shown."""
    try:
        version = metadata.version("wandb")
    except metadata.PackageNotFoundError:
        yield Finding("W&B", "wandb is not installed: runs are not mirrored")
        return
    known = wandb_key_known()
    server = urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).hostname
    why = f", as WANDB_MODE is {os.environ['WANDB_MODE']!r}" if os.environ.get("WANDB_MODE") else ""
    text = f"wandb {version}: runs would be mirrored {wandb_mode(None)}{why}"
    key = f"key for {server} {'known' if known else 'unknown'}"
    mend = "" if known else "`wandb login`, for `--wandb online` or for `make sync` later"
    yield Finding("W&B", f"{text}; {key}", mend=mend)
