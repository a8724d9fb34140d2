"""A process that acquires leases, for tests: `leaseholder.py race|hold FOLDER NAME [PLACE]`."""

import fcntl
import os
import random
import sys
import time
from pathlib import Path

from replicate.store import lease
from replicate.store.lease import acquire, release, remove_expired
from replicate.store.owner import LeaseWatch, Owner, host_namespace
from replicate.store.run_folder import RunFolder


def race(folder: Path, name: str) -> None:
    """Acquire and release many leases, and die while holding one; report every time that two processes held one."""
    dice = random.Random(name)
    watch = LeaseWatch()
    for _ in range(150):
        run = RunFolder(folder / f"run{dice.randrange(2)}")
        info = watch.look(run)
        if info is not None and info.expired:
            remove_expired(run, info)
        held = acquire(run, Owner("cpu", 1))
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


def hold(folder: Path, name: str, place: str = host_namespace()) -> None:
    """Hold a lease with a quick heartbeat, write a record again and again, and report if the lease is lost."""
    lease.HEARTBEAT_SECONDS = 0.05
    held = acquire(RunFolder(folder), Owner("cpu", 10, place=place))
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
    {"race": race, "hold": hold}[task](Path(target), *rest)
