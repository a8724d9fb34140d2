"""A lock on a folder, so that of several processes one does the work and the others find it done."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder, wait until no other process (or thread) is inside `alone(folder)`, and keep them out meanwhile.

    A courtesy that saves work, not what correctness rests on: where the folder cannot be locked (it cannot be made, or
    lies on some network file systems) the block is entered at once. So writers rename what is finished into place.
    The lock is on the folder itself: it leaves no file behind, and ends with the process, however that ends.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
