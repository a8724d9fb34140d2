"""A process that acquires leases, for tests: `leaseholder.py race|start|hold FOLDER NAME [PLACE]`."""

import fcntl
import os
import random
import sys
import time
from pathlib import Path

from replicate.store import lease
from replicate.store.lease import acquire, new_token, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder
from replicate.store.watch import LeaseWatch


def race(folder: Path, name: str) -> None:
    """Take, hold, give back and leave many claims, and die in the midst; report every time that two held one."""
    dice = random.Random(name)
    watch = LeaseWatch(seconds=1e9)
    for _ in range(150):
        run = folder / f"run{dice.randrange(2)}"
        claim = watch.look(RunFolder(run))
        if claim is not None and not claim.expired:
            continue
        holding = acquire(RunFolder(run), Owner("cpu", 1), new_token(), claim.token if claim else None)
        if holding is None:
            continue
        with (run / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                (folder / f"both-{name}").touch()
            holding.write("record", name)
            if dice.random() < 0.05:
                os._exit(0)  # as by kill -9: the claim stays
        release(RunFolder(run), holding.token)
        (folder / f"held-{name}").touch()


def start(folder: Path, name: str) -> None:
    """Claim a new folder every 4 ms of a clock that all share, so that many try at the same instant."""
    end = time.monotonic() + 2
    while (now := time.monotonic()) < end:
        tick = int(now / 0.004)
        while int(time.monotonic() / 0.004) == tick:
            pass
        run = folder / f"run{tick}"
        if acquire(RunFolder(run), Owner("cpu", 1), name) is not None:
            (run / f"won-{name}").touch()


def hold(folder: Path, name: str, place: str | None) -> None:
    """Hold a claim with a quick heartbeat, write a record again and again, and say so if the claim is lost."""
    lease.HEARTBEAT_SECONDS = 0.05
    mine = Owner("cpu", 10) if place is None else Owner("cpu", 10, place=place)
    holding = acquire(RunFolder(folder), mine)
    assert holding is not None
    with holding, holding.heartbeat((folder / f"lost-{name}").touch):
        for iteration in range(10**9):
            holding.report(iteration, 50.0)
            try:
                holding.write("record", name)
            except FileNotFoundError:
                (folder / f"refused-{name}").touch()
                return
            time.sleep(0.01)


if __name__ == "__main__":
    task, target, who, *rest = sys.argv[1:]
    if task == "race":
        race(Path(target), who)
    elif task == "start":
        start(Path(target), who)
    else:
        hold(Path(target), who, rest[0] if rest else None)
