"""What this process may use of its machine: cores and memory, within the limits of its container (Linux cgroups)."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

RUN_MEMORY = 2 * 2**30  # bytes for one run on the CPU or a GPU: a guess, from a run on a CPU that took 1.3 GiB
ROOT = Path("/")


def cores(root: Path = ROOT) -> int:
    """Count the cores that this process may use: those of its CPU set, or fewer if its container has a quota of time.

    Args:
        root: of the file system; another one in tests.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for group in _groups(root, "cpu"):
        # version 2: `150000 100000` or `max 100000`; version 1: two files, and -1 for no quota
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with contextlib.suppress(OSError, ValueError):
                quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
                counts += [quota // period] if quota > 0 else []
    return max(1, min(counts))


def free_memory(root: Path = ROOT) -> int:
    """The memory in bytes that this process and its children can still get, without what the system can take back."""
    free = [int(psutil.virtual_memory().available)]
    for group in _groups(root, "memory"):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            with contextlib.suppress(OSError, ValueError):
                left = int((group / most).read_text()) - int((group / used).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                free.append(left + int(stat.get("inactive_file", 0)))  # of the file cache
    return max(0, min(free))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups, from its own to the outermost. A container may see only the latter."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                top = root / "sys/fs/cgroup" / controllers  # version 2 has no controllers in its path
                own = top / path.lstrip("/")
                yield from (own, *(parent for parent in own.parents if parent.is_relative_to(top)))
