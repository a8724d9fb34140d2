"""As many runs of Table 3 as possible in a short time on one GPU, such as a turn in a cluster's debug queue.

    python experiments/gpu_slot.py begin --plan first --left 800 --archive cifar10-jpeg.tar.xz --pack results/local/slot
    python experiments/gpu_slot.py go-on --pack results/local/slot --return-after 300
    python experiments/gpu_slot.py stop --pack results/local/slot

`begin` starts a driver in a session of its own, which continues after the command has returned, until the time is up.
The driver examines the machine, unpacks the images, tries NVIDIA's MPS and the training-step backends, each in its own
process, and then carries out as many runs as there is time for. What fails is replaced: a graph that cannot be captured
by the eager loop, MPS by time slices. `go-on` waits again; if the driver was killed, it starts another one, which skips
the stages that are done. While a command waits, it writes the results so far to --pack every few seconds.

Exit codes: 0, or 2 for wrong usage and for a machine on which nothing can train.
"""

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
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from gpu_slot_pack import pack, write
from gpu_slot_plans import PlanName
from gpu_slot_stages import drive
from gpu_slot_state import Slot
from script import make_app, run_app

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("replicate", "experiments", "results/paper")
JOB = Path("/tmp/gpu-slot")
START_SECONDS = 120  # at most, from asking for a machine to its first command
PACK_SECONDS = 15
DRIVERS = 3  # that one command starts if they die
GIT = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]

Job = Annotated[Path, Parameter(help="Folder of the slot, outside the checkout.")]
Pack = Annotated[Path, Parameter(help="Folder to write the results to.")]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
ReturnAfter = Annotated[
    float | None,
    Parameter(validator=Number(gt=0), help="Seconds after which to return; the slot continues (default: at its end)."),
]

app = make_app("gpu_slot", (__doc__ or "").partition("\n")[0])


@app.command
def begin(
    *,
    plan: PlanName,
    left: Seconds,
    archive: Path,
    pack: Pack,
    job: Job = JOB,
    return_after: ReturnAfter = None,
    asked_at: float | None = None,
    fingerprint: str = "",
    take: Path | None = None,
    step: Literal["graph", "compiled", "eager"] = "graph",
    device: Literal["cuda", "cpu"] = "cuda",
    scale: Seconds = 1.0,
) -> int:
    """Make the folder of the slot, start its driver, and wait.

    Args:
        plan: What to carry out.
        left: Seconds that are left.
        archive: Images, with train/ and test/ at its root. Its name is the name of the data set.
        asked_at: When the time began, in seconds since 1970 (default: now).
        fingerprint: First digits of the fingerprint that the images must have.
        take: Output folder whose records count as done.
        step: Training-step backend.
        device: The CPU is for rehearsals.
        scale: Factor of all time limits, for rehearsals.
    """
    job = job.resolve()
    if (job / "state.json").exists():
        return usage(f"{job} holds a slot already; wait for it with go-on, or give another --job")
    if not archive.is_file():
        return usage(f"there is no archive {archive}")
    if take and not (take / "runs").is_dir():
        return usage(f"there is no folder {take / 'runs'} to take records from")
    shutil.rmtree(job / "tree", ignore_errors=True)
    for name in COPIED:  # later changes of the checkout do not change the slot
        shutil.copytree(ROOT / name, job / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (job / "data").mkdir(exist_ok=True)
    options = {
        "plan": plan,
        "device": device,
        "step": step,
        "fingerprint": fingerprint,
        "scale": scale,
        "deadline": deadline(asked_at, left, time.time()),
        "archive": str(archive.resolve()),
        "take": str(take.resolve()) if take else None,
    }
    if "REPLICATE_COMMIT" not in os.environ:  # the copy has no .git
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            os.environ["REPLICATE_COMMIT"] = subprocess.run(
                GIT, check=True, capture_output=True, text=True
            ).stdout.strip()
    write(job / "state.json", json.dumps({"options": options, "stages": {}}))
    return wait(job, pack, return_after)


def deadline(asked_at: float | None, left: float, now: float) -> float:
    """When the time is up, by the clock of this machine.

    Args:
        asked_at: when the machine was asked for, by the clock of the machine that asked; None: now.
        left: seconds that there were then.
        now: by the clock of this machine. If it is behind, or further ahead than a start takes, the clocks differ, and
            a slow start is assumed.
    """
    passed = 0.0 if asked_at is None else now - asked_at
    return now + left - (passed if 0 <= passed <= START_SECONDS else START_SECONDS)


@app.command
def go_on(*, pack: Pack, job: Job = JOB, return_after: ReturnAfter = None) -> int:
    """Wait for the slot again. If its driver was killed, start another one."""
    job = job.resolve()
    if not (job / "state.json").exists():
        return usage(f"there is no slot in {job}; start one with begin")
    return wait(job, pack, return_after)


@app.command
def stop(*, pack: Pack, job: Job = JOB) -> int:
    """End the slot now, and wait until it has ended."""
    job = job.resolve()
    if not (job / "state.json").exists():
        return usage(f"there is no slot in {job}")
    if alive(job):
        os.kill(int((job / "driver.lock").read_text()), signal.SIGTERM)
    return wait(job, pack, drivers=0)


@app.command(name="drive")
def drive_(*, job: Job = JOB) -> int:
    """Carry out the slot, as its only driver."""
    job = job.resolve()
    with (job / "driver.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process ends, even if it is killed
        except BlockingIOError:
            return usage(f"another driver works in {job}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        slot = Slot(job)
        signal.signal(signal.SIGTERM, lambda *_: setattr(slot, "stopped", True))
        return drive(slot)


def usage(sentence: str) -> int:
    """Print what is wrong with the command, and return its exit code."""
    print(f"gpu_slot: {sentence}", file=sys.stderr)
    return 2


def wait(job: Path, folder: Path, return_after: float | None = None, drivers: int = DRIVERS) -> int:
    """Write the results again and again, until the slot has ended or it is time to return.

    Args:
        job: folder of the slot.
        folder: where the results go.
        return_after: seconds after which to return; None: when the slot has ended.
        drivers: how many drivers to start at most: the first if there is none, another if one has died.

    Returns:
        The exit code of the slot; 0 if it has not ended.
    """
    end = time.monotonic() + (return_after or float("inf"))
    folder.mkdir(parents=True, exist_ok=True)
    process, packed, ended = None, 0.0, None
    while True:
        running = alive(job) if process is None else process.poll() is None
        state = json.loads((job / "state.json").read_text())
        ended = state.get("ended")
        over = ended is not None or time.monotonic() >= end or (not running and not drivers)
        if over or time.monotonic() - packed >= PACK_SECONDS * state["options"]["scale"]:
            report = pack(job, state, folder)
            packed = time.monotonic()
        if over:
            print(report)
            return ended or 0
        if not running:
            process, drivers = start_driver(job), drivers - 1
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


def main(words: list[str] | None = None) -> int:
    """Carry out a command line; None: that of this process."""
    return run_app(app, words)


if __name__ == "__main__":
    sys.exit(main())
