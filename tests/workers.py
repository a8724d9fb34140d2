"""Tasks that tests run in processes of their own."""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from replicate.errors import GraphError
from replicate.matrix.task import Task
from replicate.names import resolve
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Attempt, Result
from replicate.training.logger import Logger, Progress

Send = Callable[..., None]
History = Sequence[Attempt]

SYNTHETIC = "6fe038e3069697e2f30c2705265a79feb37f32381ea4af188df6aac4a8af1cbb"  # fingerprint of the synthetic images


def fail(message: str, send: Send) -> None:
    """Print, then raise."""
    print("about to fail")
    raise ValueError(message)


def die(number: int, send: Send) -> None:
    """Be killed by a signal."""
    os.kill(os.getpid(), number)


def leave(code: int, send: Send) -> None:
    """Exit at once."""
    os._exit(code)


def silent(path: Path, send: Callable[..., None]) -> None:
    """Write the process id to a file and report nothing."""
    path.write_text(str(os.getpid()))
    time.sleep(60)


def endless(path: Path, send: Send) -> None:
    """Write the process id to a file and run for ever, ignoring SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path.write_text(str(os.getpid()))
    while True:
        send(0, 0)
        time.sleep(0.05)


def record(run: Run, options: Options, device: str = "a test") -> Result:
    """Make a complete record of a run, as a training does."""
    return Result(
        run=run,
        status="converged",
        test_accuracy=50.0 + run.seed,
        train_loss=1.0,
        iteration=run.iterations,
        seconds=0.1,
        images_per_second=10.0,
        data_label="synthetic shapes",
        fingerprint=SYNTHETIC,
        commit="unknown",
        versions={},
        device=device,
        options=options.plain(),
        classes=10,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def ended(run: Run, status: str = "converged", accuracy: float = 90.0, error: str = "Traceback\nboom") -> Result:
    """Make the record of a run that took 50 s and ended with this status."""
    tested, failed = status in ("converged", "not_converged"), status == "error"
    result = replace(record(run, Options(Path())), status=status, seconds=50.0, error=error if failed else None)
    return replace(result, test_accuracy=accuracy if tested else None)


def put(result: Result, folder: Path) -> Path:
    """Write a record into the folder of its run, without a lease."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(result.to_json())
    return path


def train(run: Run, options: Options, lease: Lease, progress: Progress, logger: Logger, history: History) -> Result:
    """Take the place of a training in tests of the scheduler.

    Seed 1 raises, seed 2 is killed, seed 3 is slow, seed 5 is asked to end, seed 6 is killed the first time, seed 7
    runs out of memory the first two times, seed 8 finds the disk full the first time, seed 9 cannot have a CUDA graph,
    seed 10 waits for `OUT/go`.
    """
    progress(0, None, "reading data")
    progress(1, None)
    attempt = len(list(options.out.glob(f"seed-{run.seed}-*")))
    (options.out / f"seed-{run.seed}-{attempt}").touch()
    match run.seed:
        case 1:
            raise ValueError("seed 1 fails")
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            time.sleep(60)
        case 5:
            os.kill(os.getpid(), signal.SIGTERM)
        case 6 if attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        case 7 if attempt < 2:  # as train_run does with what torch raises
            failed = ended(run, "error", error="CUDA out of memory")
            return lease.write_result(replace(failed, passing="out of memory", history=list(history)))
        case 8 if attempt == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        case 9 if options.graph_failure is None:
            raise GraphError("graph", RuntimeError("its losses differ"))
        case 10:
            while not (options.out / "go").exists():
                time.sleep(0.05)
    result = record(run, options, f"{options.device} sees {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
    step = {"step": options.graph_failure} if options.graph_failure else {}
    return lease.write_result(replace(result, history=list(history), environment=step))


def loaded_by_a_run(task: Task, send: Send) -> tuple[int, list[str]]:
    """Carry out a run; return its iterations, and the modules of the package that this process loaded meanwhile."""
    before = {*sys.modules}
    result = resolve("replicate.worker:run_task")(task, send)
    return result.iteration, [name for name in {*sys.modules} - before if name.startswith("replicate")]


def die_training(*_: object) -> None:
    """Be killed while training."""
    print("about to die", flush=True)
    die(signal.SIGKILL, print)


def note_start(run: Run, options: Options) -> Path:
    """Note the job and the node of a start of a run, and return the folder of the run."""
    folder = options.out / "runs" / run.run_id
    with (folder / "starts").open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID', os.getppid())} {os.environ.get('SLURMD_NODENAME', os.getpid())}\n")
    return folder


def patient(
    run: Run, options: Options, lease: Lease, progress: Progress, logger: Logger, history: History
) -> Result | None:
    """Take the place of a training that lasts until `OUT/go` exists and that obeys signals."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: received.append(number))
    folder = note_start(run, options)
    while not (options.out / "go").exists():
        if received:
            (folder / "checkpoint").write_text(signal.Signals(received[0]).name)
            return None
        progress(1, None)
        time.sleep(0.05)
    return lease.write_result(replace(record(run, options), history=list(history)))


def trained(run: Run, options: Options, lease: Lease, progress: Progress, *others: Any) -> Result | None:
    """Train in at most two parts: the first waits for SIGTERM in the middle, the second must not initialise again."""
    from replicate.names import INITS
    from replicate.training import measurements
    from replicate.training.train import train_run

    folder = note_start(run, options)
    first = not (folder / "checkpoint.pt").exists()
    measurements.PROGRESS_SECONDS = 0.0  # every chunk reports its progress

    def wait(iteration: int, test_accuracy: float | None, stage: str = "") -> None:
        progress(iteration, test_accuracy, stage)
        if first and not stage:
            (folder / "waits").touch()
            signal.pause()  # returns once the handler of the signal has been called

    if not first:
        INITS.clear()  # an initialisation fails
    return train_run(run, options, lease, wait, *others)


def work_with(train: str, *arguments: Any) -> Any:
    """Do the work of a cluster's worker with another function in place of the training."""
    from replicate import carry_out  # most processes of the tests do not need it

    carry_out.Scheduler = partial(carry_out.Scheduler, train=train)
    return carry_out.work(*arguments)
