"""The process that holds a lease: who it is (`owner.json`), and whether it is dead, so that its lease has expired.

If the owner is in this very place (the same boot and process namespace; two containers of a host are two places), it is
dead if its process is gone, or is another one with another start time. Otherwise it is alive, even if it is stopped.

Of an owner elsewhere only the heartbeat is known. It is dead once we have watched its heartbeat for STALE_SECONDS
without a change, by our own monotonic clock, counting only time in which we did look. No two clocks are compared:
clocks differ between hosts, and jump. Where a system does not say when a process started (no /proc), the heartbeat
decides for all owners.

Network file systems show other hosts' changes late, by up to a minute for names (acdirmax), hence STALE_SECONDS.
"""

import contextlib
import os
import pwd
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

import pydantic.dataclasses
from pydantic import TypeAdapter, ValidationError

from replicate.field_types import STRICT
from replicate.store.fields import Accuracy, Count, Line, as_line
from replicate.store.run_folder import LEASE, OWNER, RunFolder

STALE_SECONDS = 120.0  # twice the time for which a network file system may hide a heartbeat
MAX_BYTES = 100_000  # of owner.json, which is read every few seconds
LOOK_SECONDS = 5.0  # the longest time that one look at a heartbeat counts for: we may have been asleep ourselves


def host_namespace() -> str:
    """Name the boot of this machine and the namespace of its process ids; the host's name where these are unknown."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return as_line(socket.gethostname())


def process_start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since the boot; None if it is gone, hidden, or a zombie."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    return None


def user_of(path: Path) -> str:
    """Name the user to whom a file belongs, for a sentence; of one that cannot be looked at, the user of its folder."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            user = place.lstat().st_uid
            break
    try:
        return f"the user {pwd.getpwuid(user).pw_name}"
    except KeyError:
        return f"the user with the number {user}"


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Owner:
    """Who holds a lease, and how far the run is. The defaults describe this process at the start of a run."""

    device: Line  # on which the run runs, to be shown
    iterations: Count  # of the run
    iteration: Count = 0  # done so far
    test_accuracy: Accuracy | None = None  # the latest, in %; None before the first
    stage: Line = ""  # what the run does before its first iteration, to be shown
    beat: Count = 0  # counts the heartbeats
    host: Line = field(default_factory=lambda: as_line(socket.gethostname()))  # name of the machine, to be shown
    pid: Count = field(default_factory=os.getpid)
    place: Line = field(default_factory=host_namespace)  # where the process id is valid
    # Start time of the process; None: the system does not say
    start: Line | None = field(default_factory=lambda: process_start_time(os.getpid()))

    @property
    def alive(self) -> bool | None:
        """Whether the process is alive; None where this cannot be found out from here."""
        if self.place != host_namespace() or self.start is None:
            return None
        start = process_start_time(self.pid)
        if start is None:  # it is gone, or of another user and hidden, as /proc can be mounted
            try:
                os.kill(self.pid, 0)
            except PermissionError:
                return None
            except (OSError, OverflowError):
                pass
        return start == self.start

    def to_json(self) -> str:
        """The content of `owner.json`."""
        return _OWNER.dump_json(self).decode()


_OWNER = TypeAdapter(Owner)


def parse_owner(content: bytes) -> Owner | None:
    """Read the content of an `owner.json`; None if it is garbage."""
    try:
        return _OWNER.validate_json(content)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease as found.

    Args:
        token: of its owner; empty if it cannot be found out.
        owner: None if `owner.json` cannot be read.
        expired: whether the owner is dead.
        problem: why nobody here can do anything about it; empty if somebody can.
    """

    token: str
    owner: Owner | None
    expired: bool = False
    problem: str = ""

    @property
    def holder(self) -> str:
        """The owner in words."""
        if self.problem:
            return self.problem
        return "an unknown process" if self.owner is None else f"process {self.owner.pid} on {self.owner.host}"


class LeaseWatch:
    """Looks at leases again and again, and so learns which have expired."""

    def __init__(self) -> None:
        # folder -> the heartbeat when we looked last, how many seconds we have watched it unchanged, and when that was
        self._seen: dict[Path, tuple[object, float, float]] = {}

    def look(self, folder: RunFolder) -> LeaseInfo | None:
        """Find the lease of a run; None if nobody holds one."""
        try:
            if folder.lease.is_symlink():  # no lease: nothing where it leads may be taken for one
                return None
            tokens = sorted(os.listdir(folder.lease))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            return LeaseInfo("", None, problem=f"only {user_of(folder.lease)} can read {folder.lease}")
        except OSError:  # a network file system out of reach: nothing can be found out for now
            return LeaseInfo("", None)
        if not tokens:
            return None
        content, changed = b"", 0
        with contextlib.suppress(OSError):  # also of a file that only its owner can read
            changed = (folder.lease / tokens[0] / OWNER).lstat().st_mtime_ns
            content = folder.read(f"{LEASE}/{tokens[0]}/{OWNER}", MAX_BYTES)
        now, heartbeat = time.monotonic(), (tokens[0], content, changed)
        before, unchanged, looked = self._seen.get(folder.path, (None, 0.0, now))
        unchanged = unchanged + min(now - looked, LOOK_SECONDS) if heartbeat == before else 0.0
        self._seen[folder.path] = heartbeat, unchanged, now
        owner = parse_owner(content)
        alive = owner.alive if owner else None
        return LeaseInfo(tokens[0], owner, unchanged >= STALE_SECONDS if alive is None else not alive)
