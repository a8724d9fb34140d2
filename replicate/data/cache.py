"""Cache of decoded images, one a machine: `.npy` files that all processes map into memory, found through an index.

`arrays/CONTENT.npy` holds images and is named by what they are; `index/KEY.json` says which array belongs to a key, and
facts about it. Everything here may be deleted at any time; a file that is missing or damaged is made anew.
"""

import io
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from replicate.data.dataset import Images
from replicate.data.lock import alone
from replicate.errors import UsageError
from replicate.store.files import write_atomically

Facts = dict[str, Any]


def folder() -> Path:
    """Return the cache folder: `$REPLICATE_CACHE`, else `lsuv-replication` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        UsageError: no variable is set and the user has no home.
    """
    if own := os.environ.get("REPLICATE_CACHE"):
        return Path(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "lsuv-replication"
    try:
        return Path.home() / ".cache" / "lsuv-replication"
    except RuntimeError:  # a container's user without an entry in /etc/passwd
        raise UsageError("no home folder to cache decoded images in; set REPLICATE_CACHE to a folder") from None


def remember(key: str, make: Callable[[], tuple[str, Images, Facts]]) -> tuple[Images, Facts]:
    """Return the images and facts stored under a key; if they are not there whole, make and store them.

    Of several processes that ask for the same at once, one makes it. Where the cache cannot be written the images are
    made without it, with a warning.

    Args:
        key: what to look up, fit for a file name.
        make: returns the name of the content (fit for a file name; equal names mean equal images), the images, uint8
            (n, 3, 32, 32), and facts to be kept with the key, as JSON data.

    Returns:
        The images, read from memory-mapped files where they were stored before, and the facts.
    """
    root = folder()
    if found := _fetch(root, key):
        return found
    with alone(root):
        if found := _fetch(root, key):  # another process may have been making it while this one waited
            return found
        content, images, facts = make()
        _store(root, key, content, images, facts)
    return images, facts


def _fetch(root: Path, key: str) -> tuple[Images, Facts] | None:
    try:
        entry = json.loads((root / "index" / f"{key}.json").read_text(encoding="utf-8"))
        if not re.fullmatch(r"[\w-]+\.npy", entry["array"]):
            return None  # a path; no entry of ours
        images: Images = np.load(root / "arrays" / entry["array"], mmap_mode="r", allow_pickle=False)
        # The files appear whole by renaming, yet a crash of the machine or a failing disk can still tear them.
        whole = (
            images.dtype == np.uint8 and list(images.shape) == entry["shape"] and _checksum(images) == entry["crc32"]
        )
        return (images, dict(entry["facts"])) if whole else None
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _store(root: Path, key: str, content: str, images: Images, facts: Facts) -> None:
    array = f"{content}.npy"
    entry = {"array": array, "shape": images.shape, "crc32": _checksum(images), "facts": facts}
    try:
        # The array first: an index entry never points at an array that is still to come.
        for folder in ("arrays", "index"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, images, allow_pickle=False)
        # Processes that have mapped a former file keep it.
        write_atomically(root / "arrays" / array, file.getbuffer())
        write_atomically(root / "index" / f"{key}.json", json.dumps(entry))
    except OSError as error:
        warnings.warn(
            f"the decoded images cannot be cached ({error}), so every run decodes them again; "
            "set REPLICATE_CACHE to a folder with room",
            stacklevel=3,
        )


def _checksum(images: Images) -> int:
    return zlib.crc32(np.ascontiguousarray(images).data)
