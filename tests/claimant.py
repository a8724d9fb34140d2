"""A process that claims runs, for tests: `claimant.py race|start|hold FOLDER NAME [PLACE]`."""

import fcntl
import os
import random
import sys
import time
from pathlib import Path

from replicate.matrix import claims
from replicate.matrix.claims import Watch, drop, new_token, take
from replicate.matrix.owner import Owner
from replicate.results import write_atomically


def race(folder: Path, name: str) -> None:
    """Take, hold, give back and leave many claims, and die in the midst; report every time that two held one."""
    dice = random.Random(name)
    watch = Watch(seconds=1e9)
    for _ in range(150):
        run = folder / f"run{dice.randrange(2)}"
        claim = watch.look(run)
        if claim is not None and not claim.stale:
            continue
        holding = take(run, Owner("cpu", 1), new_token(), claim.token if claim else None)
        if holding is None:
            continue
        with (run / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                (folder / f"both-{name}").touch()
            write_atomically(run / "record", name, holding.scratch)
            if dice.random() < 0.05:
                os._exit(0)  # as by kill -9: the claim stays
        drop(run, holding.token)
        (folder / f"held-{name}").touch()


def start(folder: Path, name: str) -> None:
    """Claim a new folder every 4 ms of a clock that all share, so that many try at the same instant."""
    end = time.monotonic() + 2
    while (now := time.monotonic()) < end:
        tick = int(now / 0.004)
        while int(time.monotonic() / 0.004) == tick:
            pass
        run = folder / f"run{tick}"
        if take(run, Owner("cpu", 1), name) is not None:
            (run / f"won-{name}").touch()


def hold(folder: Path, name: str, place: str | None) -> None:
    """Hold a claim with a quick heartbeat, write a record again and again, and say so if the claim is lost."""
    claims.BEAT_SECONDS = 0.05
    mine = Owner("cpu", 10) if place is None else Owner("cpu", 10, place=place)
    holding = take(folder, mine)
    assert holding is not None
    with holding, holding.beating((folder / f"lost-{name}").touch):
        for iteration in range(10**9):
            holding.tell(iteration, 50.0)
            try:
                write_atomically(folder / "record", name, holding.scratch)
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
