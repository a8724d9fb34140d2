"""The single door to the disk: bounded reads, atomic writes, no links, and text that a terminal may show."""

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import Buffer

from replicate.errors import UsageError


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Read a plain file.

    A pipe would block the reader forever, and a device has no end. A link to a plain file is followed.

    Args:
        path: the file.
        max_bytes: largest size that is accepted.

    Raises:
        OSError: the file cannot be opened, is not a plain file, or is too large.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait for its writer
    try:
        status = os.fstat(handle)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, and {max_bytes:,} are the most", str(path))
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | Buffer) -> Path:
    """Write a file through a temporary file next to it, so that no reader ever sees half of it.

    For files that no lease guards, such as tables and pages. The files of a run are written by `Lease.write`.

    Raises:
        OSError: the file cannot be written; what was there before is unchanged.
    """
    return write_staged(path, content, path.parent)


def write_staged(path: Path, content: str | Buffer, staging_dir: Path) -> Path:
    """Write a file atomically through a temporary file in `staging_dir`, on the same file system.

    Raises:
        OSError: the file cannot be written, or the staging folder is gone; what was there before is unchanged.
    """
    handle, temporary = tempfile.mkstemp(dir=staging_dir, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    with contextlib.suppress(OSError):  # so that a power loss does not undo the rename; not every system can do this
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def make_writable(out: Path) -> None:
    """Create the output folder and `out/runs`.

    Raises:
        UsageError: they cannot be created or written.
    """
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out / "runs"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {out}: {error.strerror}; give another --out") from None


def refuse_links(out: Path, run_ids: Iterable[str]) -> None:
    """Refuse to write through symbolic links inside an output folder, which could lead anywhere.

    The output folder itself may be a link: its owner put it there.

    Args:
        out: the output folder.
        run_ids: the runs that will be written.

    Raises:
        UsageError: `out/runs`, the folder of a run or something in it is a link; the message names it.
    """
    runs = out / "runs"
    for path in (runs, *(path for name in run_ids for path in (runs / name, *_entries(runs / name)))):
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link, and nothing is written through one; remove it")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def escape_control_chars(text: str) -> str:
    r"""Escape, as Python does, what a terminal would obey or hide: `\x1b`, `\n`, `\u202e`. The rest stays."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
