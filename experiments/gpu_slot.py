"""The most of Table 3 in a short time on one GPU, such as a turn in a cluster's debug queue.

    python experiments/gpu_slot.py begin --plan first --left 800 --archive cifar10-jpeg.tar.xz --pack results/local/slot
    python experiments/gpu_slot.py go-on --pack results/local/slot --return-after 300
    python experiments/gpu_slot.py stop --pack results/local/slot

`begin` starts a driver in a session of its own, which goes on when the command has returned, until the time is up. It
looks at the machine, unpacks the images, tries NVIDIA's MPS and the ways to make an iteration, each in a process of its
own, and then carries out as many runs as there is time for. What fails is left out: a graph that cannot be captured for
the eager loop, MPS for time slices. `go-on` waits again; if the driver was killed, it starts another one, which skips
the stages that are done. While a command waits it packs what there is into --pack again and again.

Exit codes: 0, or 2 for wrong usage and for a machine on which nothing can train.
"""

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu_slot_pack import pack, write
from gpu_slot_plans import PLANS
from gpu_slot_stages import drive
from gpu_slot_state import Slot

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("replicate", "experiments", "results/paper")
START_SECONDS = 120  # at most, from asking for a machine to its first command
PACK_SECONDS = 15
DRIVERS = 3  # that a command starts, should they die
GIT = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]


def begin(args: argparse.Namespace) -> int:
    """Make the folder of the slot, start its driver, and wait."""
    if (args.job / "state.json").exists():
        return usage(f"{args.job} holds a slot already; wait for it with go-on, or give another --job")
    if not args.archive.is_file():
        return usage(f"there is no archive {args.archive}")
    if args.take and not (args.take / "runs").is_dir():
        return usage(f"there is no folder {args.take / 'runs'} to take records from")
    shutil.rmtree(args.job / "tree", ignore_errors=True)
    for name in COPIED:  # whoever changes the checkout meanwhile does not change the slot
        shutil.copytree(ROOT / name, args.job / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (args.job / "data").mkdir(exist_ok=True)
    given = ("plan", "device", "step", "fingerprint", "scale")
    options = {name: getattr(args, name) for name in given} | {
        "deadline": deadline(args.asked_at, args.left, time.time()),
        "archive": str(args.archive.resolve()),
        "take": str(args.take.resolve()) if args.take else None,
    }
    if "REPLICATE_COMMIT" not in os.environ:  # the copy has no .git
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            os.environ["REPLICATE_COMMIT"] = subprocess.run(
                GIT, check=True, capture_output=True, text=True
            ).stdout.strip()
    write(args.job / "state.json", json.dumps({"options": options, "stages": {}}))
    return wait(args)


def deadline(asked_at: float | None, left: float, now: float) -> float:
    """When the time is up, by the clock of this machine.

    Args:
        asked_at: when the machine was asked for, by the clock of whoever asked; None: now.
        left: seconds that there were then.
        now: by the clock of this machine. If it is further on than a start takes, or behind, the clocks differ, and a
            slow start is assumed.
    """
    passed = 0.0 if asked_at is None else now - asked_at
    return now + left - (passed if 0 <= passed <= START_SECONDS else START_SECONDS)


def go_on(args: argparse.Namespace) -> int:
    """Wait for the slot again, or go on with it if its driver was killed."""
    if not (args.job / "state.json").exists():
        return usage(f"there is no slot in {args.job}; start one with begin")
    return wait(args)


def stop(args: argparse.Namespace) -> int:
    """End the slot now, and wait until it has."""
    if not (args.job / "state.json").exists():
        return usage(f"there is no slot in {args.job}")
    if alive(args.job):
        os.kill(int((args.job / "driver.lock").read_text()), signal.SIGTERM)
    return wait(args, drivers=0)


def usage(sentence: str) -> int:
    """Say what is wrong with the command."""
    print(f"gpu_slot: {sentence}", file=sys.stderr)
    return 2


def wait(args: argparse.Namespace, drivers: int = DRIVERS) -> int:
    """Pack again and again, until the slot has ended or it is time to return.

    Args:
        args: of the command line.
        drivers: that are started at most; the first if there is none, another if one has died.
    """
    end = time.monotonic() + (args.return_after or float("inf"))
    args.pack.mkdir(parents=True, exist_ok=True)
    process, packed, ended = None, 0.0, None
    while True:
        there = alive(args.job) if process is None else process.poll() is None
        state = json.loads((args.job / "state.json").read_text())
        ended = state.get("ended")
        over = ended is not None or time.monotonic() >= end or (not there and not drivers)
        if over or time.monotonic() - packed >= PACK_SECONDS * state["options"]["scale"]:
            report = pack(args.job, state, args.pack)
            packed = time.monotonic()
        if over:
            print(report)
            return ended or 0
        if not there:
            process, drivers = start_driver(args.job), drivers - 1
        time.sleep(0.2)


def alive(job: Path) -> bool:
    """Whether a driver holds its lock."""
    with (job / "driver.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start_driver(job: Path) -> "subprocess.Popen[bytes]":
    """Start the process that carries out the slot, in a session of its own."""
    (job / "logs").mkdir(exist_ok=True)
    script = job / "tree" / "experiments" / "gpu_slot.py"
    with (job / "logs" / "driver.txt").open("ab") as output:
        return subprocess.Popen([sys.executable, str(script), "drive", "--job", str(job)], stdin=subprocess.DEVNULL,
                                stdout=output, stderr=output, start_new_session=True)  # fmt: skip


def drive_(args: argparse.Namespace) -> int:
    """Carry out the slot, as the only driver."""
    with (args.job / "driver.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends, however it does
        except BlockingIOError:
            return usage(f"another driver works in {args.job}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        slot = Slot(args.job)
        signal.signal(signal.SIGTERM, lambda *_: setattr(slot, "stopped", True))
        return drive(slot)


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""

    def positive(text: str) -> float:
        if (value := float(text)) <= 0:
            raise ValueError
        return value

    parser = argparse.ArgumentParser(prog="gpu_slot", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, function in {"begin": begin, "go-on": go_on, "stop": stop, "drive": drive_}.items():
        made[name] = commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        made[name].set_defaults(function=function, return_after=None)
        text = "folder of the slot, outside the checkout (/tmp/gpu-slot)"
        made[name].add_argument(
            "--job", type=lambda text: Path(text).resolve(), default=Path("/tmp/gpu-slot"), help=text
        )
        if name != "drive":
            made[name].add_argument("--pack", type=Path, required=True, metavar="DIR", help="where the results go")
    for name in ("begin", "go-on"):
        text = "return after so long; the slot goes on (at its end)"
        made[name].add_argument("--return-after", type=positive, metavar="SECONDS", help=text)
    add = made["begin"].add_argument
    add("--plan", choices=list(PLANS), required=True, help="what is to be carried out")
    add("--left", type=positive, required=True, metavar="SECONDS", help="time that there is")
    add("--asked-at", type=float, metavar="EPOCH", help="when the time began, in seconds since 1970 (now)")
    text = "images, train/ and test/ at its root; its name is that of the data set"
    add("--archive", type=Path, required=True, metavar="FILE", help=text)
    add("--fingerprint", default="", metavar="HEX", help="with which the fingerprint of the images must begin")
    add("--take", type=Path, metavar="DIR", help="output folder whose records count as done")
    add("--step", choices=("graph", "compiled", "eager"), default="graph", help="how iterations are made (graph)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="the CPU is for rehearsals (cuda)")
    add("--scale", type=positive, default=1.0, metavar="X", help="multiplies all time boxes, for rehearsals (1)")
    return parser


def main() -> int:
    """Carry out the command line."""
    args = make_parser().parse_args()
    code: int = args.function(args)
    return code


if __name__ == "__main__":
    sys.exit(main())
