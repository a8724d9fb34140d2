"""Leases: the right to write into a run's folder, held by one process at a time, on any number of hosts.

A lease is the folder `RUN/claim/TOKEN/`, TOKEN a random word of its owner. It holds `owner.json` (who, and how far) and
the files that the owner is still writing. Everything rests on `rename`, which is atomic on local and on network file
systems, where locks often are not:

- *Acquiring*: a whole `claim/TOKEN/owner.json` is built under another name and renamed to `claim`. A folder can be
  renamed only onto nothing or onto an empty folder, so one of many processes succeeds, and no reader sees half a lease.
- *Taking over*: `claim/TOKEN`, whose name is that of the owner that was found dead, is renamed away. One of many
  processes finds it. A lease that was acquired since has another token, so nobody can remove it by mistake.
- *Noticing the loss*: an owner writes each file inside its lease and renames it into the run's folder when it is whole.
  An owner that was only asleep (SIGSTOP, a closed laptop) finds that path gone: the file system itself refuses its
  record and its checkpoint. A check before the write would not be enough: the lease could be taken over in between.
- *The process that trains is the owner*, not the scheduler that started it: a scheduler may be killed while its worker
  lives on for a while, and nobody must train next to it.

`owner.py` finds out whether an owner is dead. The lease lies in the run's own folder because acquiring it changes that
folder, which makes a client of a network file system look again for a record that another host has finished meanwhile.
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from replicate.store.files import set_aside, write_atomically
from replicate.store.owner import LeaseInfo, Owner, user_of
from replicate.store.result import Result
from replicate.store.run_folder import LEASE, OWNER, RESULT, RunFolder

HEARTBEAT_SECONDS = 5.0


class Lease(contextlib.AbstractContextManager["Lease", None]):
    """The lease of a run that this process holds, from `acquire`. A context manager that releases it at its end.

    It is the only way to write into a run's folder. Once another process has taken the lease over, each write raises
    FileNotFoundError and changes nothing.

    Args:
        folder: of the run.
        token: of the lease.
        owner: this process.
    """

    def __init__(self, folder: RunFolder, token: str, owner: Owner) -> None:
        self.folder, self.token = folder, token
        self.staging_dir = folder.lease / token  # for files that are still being written; gone when the lease is
        self._owner = owner
        self._end = threading.Event()

    def __exit__(self, *error: object) -> None:
        release(self.folder, self.token)

    @property
    def held(self) -> bool:
        """Whether the lease is still ours."""
        return self.staging_dir.is_dir()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file of the run so that it is there whole or not at all.

        Raises:
            FileNotFoundError: the lease was taken over.
            OSError: the file cannot be written; what was there before is unchanged.
        """
        self._clear(name)
        return write_atomically(self.folder.path / name, content, self.staging_dir)

    def write_result(self, result: Result) -> Result:
        """Write the record, and return it. Raises as `write`."""
        self.write(RESULT, result.to_json())
        return result

    def remove(self, name: str) -> None:
        """Remove a file of the run, if there is one. Raises as `write`."""
        self._check()
        self._clear(name)
        (self.folder.path / name).unlink(missing_ok=True)

    def set_aside(self, name: str) -> str:
        """Rename a file of the run that nobody can use, and return its new name. Raises as `write`."""
        self._check()
        return set_aside(self.folder.path / name)

    def _clear(self, name: str) -> None:
        """Set a folder aside that has the name of a file."""
        path = self.folder.path / name
        if path.is_dir() and not path.is_symlink():
            print(f"{path} is a folder; set aside as {self.set_aside(name)}")

    def _check(self) -> None:
        if not self.held:
            raise FileNotFoundError(errno.ENOENT, "the lease was taken over", str(self.staging_dir))

    @contextlib.contextmanager
    def heartbeat(self, lost: Callable[[], None]) -> Iterator[None]:
        """Renew the heartbeat in a thread. Once the lease was taken over, the thread calls `lost` and ends."""
        thread = threading.Thread(target=self._beat, args=(lost,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def report(self, iteration: int, accuracy: float | None, stage: str = "") -> None:
        """Note how far the run is, for the next heartbeat; see the fields of Owner."""
        self._owner = replace(self._owner, iteration=iteration, test_accuracy=accuracy, stage=stage)

    def _beat(self, lost: Callable[[], None]) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            self._owner = replace(self._owner, beat=self._owner.beat + 1)
            try:
                _write_owner(self._owner, self.staging_dir)
            except FileNotFoundError:
                return lost()
            except OSError:  # a full disk: the time stamp is a heartbeat, too, and takes no room
                with contextlib.suppress(OSError):
                    os.utime(self.staging_dir / OWNER)

    @contextlib.contextmanager
    def temporary_files(self) -> Iterator[None]:
        """Within, this process puts its temporary files next to the lease, with which they go.

        W&B makes five folders, which it would leave: a forked process ends without the clean-up of Python's exit.
        """
        before = tempfile.tempdir
        tempfile.tempdir = str(self.staging_dir)
        try:
            yield
        finally:
            tempfile.tempdir = before

    def sweep(self) -> None:
        """Remove what killed processes have left next to the lease, once the run is finished."""
        for path in self.folder.path.glob(f"{LEASE}-*"):
            shutil.rmtree(path, ignore_errors=True)


def acquire(folder: RunFolder, owner: Owner, token: str | None = None) -> Lease | None:
    """Acquire the lease of a run. One whose owner is dead must be removed first, see `remove_expired`.

    Args:
        folder: of the run; it is created.
        owner: this process.
        token: of the lease; None: a new one.

    Returns:
        The lease; None if another process holds one.

    Raises:
        OSError: the lease cannot be written.
    """
    token = token or new_token()
    folder.path.mkdir(parents=True, exist_ok=True)
    aside = folder.path / f"{LEASE}-{token}.new"
    lease = Lease(folder, token, owner)
    try:
        (aside / token).mkdir(parents=True)
        _write_owner(owner, aside / token)
        with contextlib.suppress(OSError):
            folder.lease.unlink()  # a file is no lease
        with contextlib.suppress(OSError):
            folder.lease.rmdir()  # some file systems rename a folder only onto nothing, not onto an empty folder
        os.rename(aside, folder.lease)
    except OSError as error:
        if lease.held:  # the answer to the rename got lost on the network, and it was sent again
            return lease
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return lease


def release(folder: RunFolder, token: str) -> None:
    """Remove the lease of this token, if it is still there, and no other."""
    with contextlib.suppress(OSError):
        _remove(folder, token)


def remove_expired(folder: RunFolder, info: LeaseInfo) -> LeaseInfo | None:
    """Remove a lease whose owner is dead, so that the run is free.

    Args:
        folder: of the run.
        info: the lease, as found.

    Returns:
        None; or the lease with a `problem`, if it cannot be removed.
    """
    try:
        _remove(folder, info.token)
    except FileNotFoundError:  # another process was faster
        return None
    except OSError as error:
        problem = f"{folder.lease} is left from {info.holder}, which is gone, and cannot be removed ({error.strerror})"
        return replace(info, problem=f"{problem}; it belongs to {user_of(folder.lease)}")
    return None


def _remove(folder: RunFolder, token: str) -> None:
    aside = folder.path / f"{LEASE}-{new_token()}.old"
    os.rename(folder.lease / token, aside)
    with contextlib.suppress(OSError):
        os.rmdir(folder.lease)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        aside.unlink()  # if somebody's file had the name of the token


def new_token() -> str:
    """Make a token that nobody else has."""
    return secrets.token_hex(8)


def _write_owner(owner: Owner, folder: Path) -> None:
    """Write `owner.json`, whole. No fsync: after a power loss the owner is dead anyway."""
    temporary = folder / f".{OWNER}"
    temporary.write_text(owner.to_json(), encoding="utf-8")
    os.replace(temporary, folder / OWNER)
