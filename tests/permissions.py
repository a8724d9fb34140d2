"""Folders without permissions for tests that root runs, whom the system lets read and write everywhere."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 0x20080522  # of Linux' capset
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@contextmanager
def restricted(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """Within, this thread has only these permissions for a folder and those below it."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    before = _capabilities() if os.geteuid() == 0 else None
    for path in folders:
        path.chmod(mode)
    if before:
        _set(before[0] & ~(DAC_OVERRIDE | DAC_READ_SEARCH), *before[1:])
    try:
        yield
    finally:
        if before:
            _set(*before)
        for path in folders:
            path.chmod(0o755)


def _capabilities() -> list[int]:
    """The first 32 capabilities of this thread: effective, permitted, inheritable, and the other 32 of each."""
    data = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(VERSION, 0), data) == 0
    return list(data)


def _set(*data: int) -> None:
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(VERSION, 0), (ctypes.c_uint32 * 6)(*data)) == 0
