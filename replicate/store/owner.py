"""The process that holds a lease: who it is, how far its run is, and whether it is still alive. `owner.json`."""

import os
import socket
from dataclasses import field
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from replicate.run import STRICT
from replicate.store.result import Accuracy, Count, Line


@cache
def host_namespace() -> str:
    """Name the boot of this machine and the namespace of its process ids; the host's name where these are unknown."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since the boot; None if it is gone, hidden, or only an exit code."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True, slots=True, config=STRICT)
class Owner:
    """Who holds a lease, and how far the run is."""

    device: Annotated[Line, Field(description="where the run runs, for people")]
    iterations: Annotated[Count, Field(description="of the run")]
    iteration: Annotated[Count, Field(description="done so far")] = 0
    test_accuracy: Annotated[Accuracy | None, Field(description="the latest, in %; null before the first")] = None
    beat: Annotated[Count, Field(description="counts the heartbeats")] = 0
    host: Annotated[Line, Field(description="name of the machine, for people")] = field(
        default_factory=socket.gethostname
    )
    pid: Annotated[Count, Field(description="process id")] = field(default_factory=os.getpid)
    place: Annotated[str, Field(description="where the process id is valid")] = field(default_factory=host_namespace)
    start: Annotated[str | None, Field(description="start time of the process; null: the system does not say")] = field(
        default_factory=lambda: process_start_time(os.getpid())
    )

    @property
    def alive(self) -> bool | None:
        """Whether the process is alive; None where that cannot be told from here."""
        if self.place != host_namespace() or self.start is None:
            return None
        if (start := process_start_time(self.pid)) is None and _of_another_user(self.pid):
            return None
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


def _of_another_user(pid: int) -> bool:
    """Whether there is a process that we may not signal: /proc can be mounted so that it hides these."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False
