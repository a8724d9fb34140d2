"""Which leases have expired, because their owners are dead.

An owner in this very place (boot and process namespace: two containers of a host count apart) is dead if its process is
gone or is another one (its start time differs), and alive otherwise, even if it is stopped. Of an owner elsewhere only
the heartbeat is known: it is dead once we have watched the heartbeat stand still for STALE_SECONDS, by our own
monotonic clock, counting only time in which we did look. No two clocks are compared: clocks differ between hosts, and
jump. Where a system does not say when a process started (no /proc), the heartbeat decides for all.

Network file systems show other hosts' changes late, by up to a minute for names (acdirmax), hence STALE_SECONDS.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from replicate.store.files import read_bytes
from replicate.store.lease import NAME, OWNER
from replicate.store.owner import Owner, parse_owner
from replicate.store.run_folder import RunFolder

MAX_BYTES = 100_000  # of an owner.json; ours have about 300
STALE_SECONDS = 120.0  # twice what a network file system may hide a heartbeat
LOOK_SECONDS = 5.0  # the longest time that one look at a heartbeat counts for: we may have been asleep ourselves


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease as found.

    Args:
        token: of its owner; empty if there is a file in the place of the lease's folder.
        owner: None if `owner.json` cannot be read.
        expired: whether the owner is dead.
    """

    token: str
    owner: Owner | None
    expired: bool = False

    @property
    def holder(self) -> str:
        """The owner in words."""
        return "an unknown process" if self.owner is None else f"process {self.owner.pid} on {self.owner.host}"


class LeaseWatch:
    """Looks at leases again and again, and so learns which have expired.

    Args:
        seconds: a heartbeat that stands still for so long is that of a dead owner; None: STALE_SECONDS.
        clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = STALE_SECONDS if seconds is None else seconds
        self._clock = clock
        self._seen: dict[RunFolder, tuple[object, float, float]] = {}

    def look(self, folder: RunFolder) -> LeaseInfo | None:
        """Find the lease of a run; None if nobody holds one."""
        path = folder.path / NAME
        try:
            token = next(iter(sorted(os.listdir(path))), None)
        except FileNotFoundError:
            token = None
        except NotADirectoryError:
            token = ""
        except OSError:  # a network file system out of reach: nothing can be told for now
            return LeaseInfo("", None)
        if token is None:
            self._seen.pop(folder, None)
            return None
        content, mark = b"", 0
        with contextlib.suppress(OSError):
            file = path / token / OWNER
            content, mark = read_bytes(file, MAX_BYTES), file.stat().st_mtime_ns
        owner = parse_owner(content)
        still = self._still(folder, (token, content, mark))
        alive = owner.alive if owner else None
        return LeaseInfo(token, owner, still >= self._seconds if alive is None else not alive)

    def _still(self, folder: RunFolder, sign: object) -> float:
        """Seconds that we have watched this sign of life stand still."""
        now = self._clock()
        before, still, looked = self._seen.get(folder, (None, 0.0, now))
        still = still + min(now - looked, LOOK_SECONDS) if sign == before else 0.0
        self._seen[folder] = sign, still, now
        return still
