"""The only access to the disk: bounded reads, atomic writes, no links; and text that is safe on a terminal."""

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import Buffer

from replicate.errors import UsageError

MAX_BYTES = 16_000_000  # of a file of a run, except its checkpoint; the largest, layers.json, has about 100,000


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a plain file, or one that a link leads to.

    Anything else is refused: a pipe would block the reader forever, and a device has no end.

    Args:
        path: the file.
        max_bytes: largest size that is accepted.

    Raises:
        OSError: the file cannot be opened, is not a plain file, or is too large.
    """
    # O_NONBLOCK, or opening a pipe would wait for its writer
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, and {max_bytes:,} are the most", str(path))
        return file.read(max_bytes)


def write_atomically(path: Path, content: str | Buffer, staging_dir: Path | None = None) -> Path:
    """Write a file through a temporary file, so that no reader ever sees half of it.

    The files of a run are written by `Lease.write`; others, such as tables and pages, need no lease.

    Args:
        path: the file.
        content: of the file.
        staging_dir: folder of the temporary file, on the same file system; None: that of the file.

    Raises:
        OSError: the file cannot be written, or the staging folder is gone; what was there before is unchanged.
    """
    temporary = (staging_dir or path.parent) / f".{path.name}-{secrets.token_hex(8)}.tmp"
    # not by tempfile, whose files only their owner can read: the user's umask decides
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says what is wrong
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # so that a power loss does not undo the rename; some systems cannot do this
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def prepare_output_folder(out: Path, run_ids: Iterable[str]) -> None:
    """Create an output folder, and refuse symbolic links inside it: writing through one could lead anywhere.

    The output folder itself may be a link: its owner put it there.

    Args:
        out: the output folder.
        run_ids: the runs that will be written.

    Raises:
        UsageError: it cannot be created or written; or `out/runs`, the folder of a run or something in it is a link,
            which the message names.
    """
    runs = out / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {out}: {error.strerror}; give another --out") from None
    for run_id in run_ids:
        for path in (runs, runs / run_id, *(runs / run_id).glob("*")):
            refuse_link(path)


def refuse_link(path: Path) -> None:
    """Raise a UsageError if there is a symbolic link at this path."""
    if path.is_symlink():
        raise UsageError(f"{path} is a symbolic link, and nothing is written through one; remove it")


def escape_control_chars(text: str) -> str:
    r"""Escape characters that a terminal would obey or hide, as Python does: `\x1b`, `\n`, `\u202e`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
