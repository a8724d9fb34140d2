"""What comes from elsewhere: files are read with bounds, links are not written through, text shows as text."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from replicate.errors import UsageError


def read_bytes(path: Path, most: int) -> bytes:
    """Read a plain file.

    A pipe would keep the reader waiting for ever, a device has no end. A link to a plain file is read.

    Args:
        path: of the file.
        most: bytes that such a file may have.

    Raises:
        OSError: it cannot be opened, is no plain file, or is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for its writer
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, and {most:,} are the most", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(handle)


def refuse_links(out: Path, names: Iterable[str]) -> None:
    """Refuse to write through symbolic links within an output folder, which could lead anywhere.

    The folder itself may be one: its user has put it where it is.

    Args:
        out: the output folder.
        names: of the folders in `out/runs/` that will be written.

    Raises:
        UsageError: `out/runs`, one of the folders or something in it is a link; names it.
    """
    runs = out / "runs"
    for path in (runs, *(path for name in names for path in (runs / name, *_entries(runs / name)))):
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link, and nothing is written through one; remove it")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def printable(text: str) -> str:
    r"""Put the escapes of Python for what a terminal would obey or hide: `\x1b`, `\n`, `\u202e`. The rest stays."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
