"""Cache of decoded images, one per machine: per key a `.npy` file, which all processes map into memory, and a `.json`.

A key is `PLACE-CONTENT`. There is one entry per place: a new one replaces those of other contents.
Any of the files may be deleted at any time; a file that is missing or damaged is made again.
"""

import contextlib
import fcntl
import io
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from replicate.data.dataset import Images
from replicate.errors import UsageError
from replicate.store.files import read_bytes, write_atomically

# Images, uint8 (n, c, h, w), and the fingerprint of the files that they were decoded from
Entry = tuple[Images, str]


def folder() -> Path:
    """Return the cache folder: `$REPLICATE_CACHE`, else `lsuv-replication` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        UsageError: no variable is set and the user has no home.
    """
    if own := os.environ.get("REPLICATE_CACHE"):
        return Path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lsuv-replication"
    except RuntimeError:  # a container's user without an entry in /etc/passwd
        raise UsageError("no home folder to cache decoded images in; set REPLICATE_CACHE to a folder") from None


def get_or_create(key: str, create: Callable[[], Entry]) -> Entry:
    """Return the entry of a key; if there is none, or it is damaged, create and store it.

    If several processes ask for the same key at once, one of them creates the entry. If the cache cannot be written,
    the entry is created without it, with a warning.

    Args:
        key: `PLACE-CONTENT`, a file name without its suffix.
        create: makes the entry.

    Returns:
        The entry. Images that were stored before are a read-only memory map.
    """
    path = folder() / f"{key}.npy"
    if (entry := _read(path)) is None:
        with folder_lock(path.parent):
            if (entry := _read(path)) is None:  # another process may have created it
                entry = create()
                _write(path, entry)
    return entry


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Create the folder if it is missing, and lock it against other processes and threads that call this function.

    An optimisation; correctness does not depend on it: where the folder cannot be created or locked, as on some network
    file systems, the block runs without a lock. The lock leaves no file behind, and ends with the process.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Entry | None:
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        about = json.loads(read_bytes(path.with_suffix(".json"), max_bytes=1000))
        # The files are written atomically, but a failing disk can still damage them.
        whole = images.dtype == np.uint8 and [*images.shape] == about["shape"]
        return (images, about["fingerprint"]) if whole and zlib.crc32(images.data) == about["crc32"] else None
    except Exception:  # NumPy has many types for a damaged header
        return None


def _write(path: Path, entry: Entry) -> None:
    images, fingerprint = entry
    about = {"fingerprint": fingerprint, "shape": images.shape, "crc32": zlib.crc32(images.data)}
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    try:
        write_atomically(path, file.getbuffer())  # processes that have mapped the old file keep it
        write_atomically(path.with_suffix(".json"), json.dumps(about))
        for other in path.parent.glob(f"{path.name.partition('-')[0]}-*"):
            if other.stem != path.stem:
                other.unlink(missing_ok=True)
    except OSError as error:
        text = f"cannot cache the decoded images ({error}), so every run decodes them again"
        warnings.warn(f"{text}; set REPLICATE_CACHE to a folder with free space", stacklevel=3)
