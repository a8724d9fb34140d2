"""Limits of containers, in made-up file systems."""

import os
from pathlib import Path

import psutil
import pytest

from replicate.matrix.limits import cores, free_memory

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
GIB = 2**30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores and 100 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100 * GIB}))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"proc/self/cgroup": "0::/box/inner\n"}
V1 = {"proc/self/cgroup": "4:cpu,cpuacct:/box\n9:memory:/box\n0::/elsewhere\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        (V2 | {"sys/fs/cgroup/box/inner/cpu.max": "max 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/box/inner/cpu.max": "250000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/box/inner/cpu.max": "max 100000\n", "sys/fs/cgroup/box/cpu.max": "400000 100000\n"}, 4),
        (V2 | {"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),  # all that a container may see of its group
        (V1 | {f"sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_{n}_us": t for n, t in (("quota", "-1"), ("period", "9"))}, 64),
        (V1 | {f"sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_{n}_us": t for n, t in (("quota", "30"), ("period", "10"))}, 3),
        (V2 | {"sys/fs/cgroup/box/inner/cpu.max": "nonsense"}, 64),
    ],
)
@pytest.mark.usefixtures("machine")
def test_cores(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert cores(write(tmp_path, files)) == expected


@pytest.mark.usefixtures("machine")
def test_free_memory(tmp_path: Path) -> None:
    assert free_memory(write(tmp_path, V2)) == 100 * GIB
    group = "sys/fs/cgroup/box/"
    used = {f"{group}memory.current": str(5 * GIB), f"{group}memory.stat": f"anon 1\ninactive_file {2 * GIB}\n"}
    assert free_memory(write(tmp_path, used | {f"{group}memory.max": "max\n"})) == 100 * GIB
    assert free_memory(write(tmp_path, used | {f"{group}memory.max": str(8 * GIB)})) == 5 * GIB
    old = {"limit_in_bytes": str(3 * GIB), "usage_in_bytes": str(4 * GIB), "stat": "inactive_file 7\n"}
    files = V1 | {f"sys/fs/cgroup/memory/box/memory.{name}": text for name, text in old.items()}
    assert free_memory(write(tmp_path / "old", files)) == 0


def test_this_machine() -> None:
    assert 1 <= cores() <= HERE
    assert 0 < free_memory() <= psutil.virtual_memory().total
