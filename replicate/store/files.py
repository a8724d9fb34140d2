"""The only access to the disk: bounded reads, atomic writes, no links; and text that is safe on a terminal.

An output folder may come from somebody else. Nothing in it leads out of it, blocks a reader or fills the memory.
"""

import contextlib
import errno
import itertools
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import Buffer

from replicate.errors import UsageError

# What systems say of a link, a file or a link in place of a folder, a pipe that nobody reads, a folder and a socket
NOT_PLAIN = (errno.ELOOP, errno.EMLINK, errno.ENOTDIR, errno.ENXIO, errno.EISDIR, errno.EOPNOTSUPP)
PASS = getattr(os, "O_PATH", os.O_RDONLY)  # to open a folder that one may pass through but not list
WANDB_LINK = "debug-core.log"  # leads to W&B's cache; nothing writes through it. Its other links lead to its own folder
MAX_BYTES = 16_000_000  # of a file of a run, except its checkpoint; the largest, layers.json, has about 100,000


class NotPlainFileError(OSError):
    """What is at a path is not a plain file, or is too large, or is reached through a link that is not followed."""


def read_bytes(path: Path, max_bytes: int = MAX_BYTES, below: Path | None = None) -> bytes:
    """Read a plain file.

    Anything else is refused: a pipe would block the reader forever, and a device has no end.

    Args:
        path: the file.
        max_bytes: largest size that is accepted.
        below: a folder above the file, below which no link is followed; None: links are followed.

    Raises:
        NotPlainFileError: it is not a plain file, it is too large, or there is such a link.
        OSError: the file cannot be opened.
    """
    with os.fdopen(_open(path, os.O_RDONLY, below), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            message = f"it has {size:,} bytes, and {max_bytes:,} are the most"
            raise NotPlainFileError(errno.EFBIG, message, str(path))
        return file.read(max_bytes)


def read_end(path: Path, max_bytes: int = 100_000, below: Path | None = None) -> bytes:
    """Read the last bytes of a plain file of any size. Arguments and errors as in `read_bytes`."""
    with os.fdopen(_open(path, os.O_RDONLY, below), "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
        return file.read(max_bytes)


def open_log(path: Path) -> int:
    """Open a file to which a process appends what it prints. What is there and is not a plain file is set aside.

    Returns:
        The file descriptor.

    Raises:
        OSError: it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        return _open(path, flags, path.parent)
    except NotPlainFileError:
        name = set_aside(path)
        handle = _open(path, flags, path.parent)
        os.write(handle, f"what was at {path} is not a plain file; set aside as {name}\n".encode())
        return handle


def set_aside(path: Path) -> str:
    """Rename something that nobody can use, and return its new name: its old one and the first free number."""
    names = (f"{path.name}.set-aside-{number}" for number in itertools.count(1))
    free = next(name for name in names if not os.path.lexists(path.with_name(name)))
    os.rename(path, path.with_name(free))
    return free


def _open(path: Path, flags: int, below: Path | None) -> int:
    """Open a plain file; `below` and errors as in `read_bytes`."""
    folders = [below, *map(Path, path.relative_to(below).parts[:-1])] if below else []
    place, follow = None, 0
    try:
        with contextlib.ExitStack() as stack:
            for folder in folders:  # one after the other, because O_NOFOLLOW is about the last name of a path
                place = os.open(folder, PASS | os.O_DIRECTORY | follow, dir_fd=place)
                stack.callback(os.close, place)
                follow = os.O_NOFOLLOW
            # O_NONBLOCK, or opening a pipe would wait for its other end
            handle = os.open(path.name if below else path, flags | os.O_NONBLOCK | follow, 0o666, dir_fd=place)
    except OSError as error:
        if error.errno in NOT_PLAIN:
            raise NotPlainFileError(error.errno, "it is not a plain file, or a link leads to it", str(path)) from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise NotPlainFileError(errno.EINVAL, "it is not a plain file", str(path))
    return handle


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
        UsageError: it cannot be created or written; or `out/runs` or the folder of a run is a link, or one in it leads
            out of it. The message names the link.
    """
    runs = out / "runs"
    refuse_link(runs)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {out}: {error.strerror}; give another --out") from None
    for run_id in run_ids:
        refuse_links_out(runs / run_id)


def refuse_links_out(folder: Path) -> None:
    """Raise a UsageError if a folder is a symbolic link, or if one below it leads out of it; W&B's own are left out."""
    refuse_link(folder)
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            if path.name == WANDB_LINK and path.parent.name in ("logs", "wandb"):
                continue
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                refuse_link(path)


def refuse_link(path: Path) -> None:
    """Raise a UsageError if there is a symbolic link at this path."""
    if path.is_symlink():
        raise UsageError(
            f"{path} is a symbolic link, and nothing is written through one; remove it (the output folder may be one)"
        )


def escape_control_chars(text: str) -> str:
    r"""Escape characters that a terminal would obey or hide, as Python does: `\x1b`, `\n`, `\u202e`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
