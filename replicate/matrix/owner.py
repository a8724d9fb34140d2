"""Owner: the process that holds a claim, what it tells of its run, and whether it still lives."""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

FILE = "owner.json"


@cache
def here() -> str:
    """Name the boot of this machine and the namespace in which process ids hold; the host's name where unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str | None:
    """Tell when a process started, in clock ticks since the boot; None: it is gone, or hidden, or a mere exit code."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a claim, and how far the run is: `owner.json`.

    Args:
        device: where the run runs, for people.
        iterations: of the run.
        iteration: done so far.
        test_accuracy: the latest, in %; None before the first.
        beat: counts the heartbeats.
        host: name of the machine, for people.
        pid: process id.
        place: where that process id holds, of `here`.
        start: when the process started, of `started`; None where the system does not tell.
    """

    device: str
    iterations: int
    iteration: int = 0
    test_accuracy: float | None = None
    beat: int = 0
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    place: str = field(default_factory=here)
    start: str | None = field(default_factory=lambda: started(os.getpid()))

    @property
    def alive(self) -> bool | None:
        """Whether the process lives; None where that cannot be told from here."""
        if self.place != here() or self.start is None:
            return None
        if (start := started(self.pid)) is None and _of_another_user(self.pid):
            return None
        return start == self.start

    def write(self, folder: Path) -> None:
        """Write `folder/owner.json`, whole. No fsync: after a loss of power the owner is dead anyhow."""
        temporary = folder / f".{FILE}"
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(temporary, folder / FILE)


def parse(content: bytes) -> Owner | None:
    """Read what an `owner.json` holds; None where it is garbage."""
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError, RecursionError):
        return None
    types: Mapping[str, Any] = get_type_hints(Owner)
    whole = all(isinstance(getattr(owner, name), kind) for name, kind in types.items())
    return owner if whole and f"{owner.host}{owner.device}".isprintable() else None


def _of_another_user(pid: int) -> bool:
    """Whether there is such a process that we may not signal: /proc can be mounted so that it hides these."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False
