"""A process that acquires leases, for tests: `leaseholder.py race|start|hold FOLDER NAME [PLACE]`."""

import fcntl
import os
import random
import sys
import time
from pathlib import Path

from replicate.store import lease
from replicate.store.lease import acquire, release
from replicate.store.owner import LeaseWatch, Owner
from replicate.store.run_folder import RunFolder


def race(folder: Path, name: str) -> None:
    """Acquire and release many leases, and die while holding one; report every time that two processes held one."""
    dice = random.Random(name)
    watch = LeaseWatch()
    for _ in range(150):
        run = RunFolder(folder / f"run{dice.randrange(2)}")
        info = watch.look(run)
        if info is not None and not info.expired:
            continue
        held = acquire(run, Owner("cpu", 1), expired=info.token if info else None)
        if held is None:
            continue
        with (run.path / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                (folder / f"both-{name}").touch()
            held.write("record", name)
            if dice.random() < 0.05:
                os._exit(0)  # as by kill -9: the lease stays
        release(run, held.token)
        (folder / f"held-{name}").touch()


def start(folder: Path, name: str) -> None:
    """Acquire the lease of a new folder every 4 ms of a clock that all share, so that many try at the same instant."""
    end = time.monotonic() + 2
    while (now := time.monotonic()) < end:
        tick = int(now / 0.004)
        while int(time.monotonic() / 0.004) == tick:
            pass
        run = folder / f"run{tick}"
        if acquire(RunFolder(run), Owner("cpu", 1), name) is not None:
            (run / f"won-{name}").touch()


def hold(folder: Path, name: str, place: str = "") -> None:
    """Hold a lease with a quick heartbeat, write a record again and again, and report if the lease is lost."""
    lease.HEARTBEAT_SECONDS = 0.05
    owner = Owner("cpu", 10, place=place) if place else Owner("cpu", 10)
    held = acquire(RunFolder(folder), owner)
    assert held is not None
    with held, held.heartbeat((folder / f"lost-{name}").touch):
        for iteration in range(10**9):
            held.report(iteration, 50.0)
            try:
                held.write("record", name)
            except FileNotFoundError:
                (folder / f"refused-{name}").touch()
                return
            time.sleep(0.01)


if __name__ == "__main__":
    task, target, *rest = sys.argv[1:]
    {"race": race, "start": start, "hold": hold}[task](Path(target), *rest)
