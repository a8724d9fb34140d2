"""Tasks that tests let the launcher carry out in processes of their own."""

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from replicate.errors import GraphError
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Attempt, Result
from replicate.training.logger import Logger

Send = Callable[..., None]
Loggers = Sequence[Logger]
History = Sequence[Attempt]

SYNTHETIC = "6fe038e3069697e2f30c2705265a79feb37f32381ea4af188df6aac4a8af1cbb"  # fingerprint of the synthetic images


def environment(names: list[str], send: Send) -> dict[str, str | None]:
    """Return variables of this process's environment."""
    return {name: os.environ.get(name) for name in names}


def fail(message: str, send: Send) -> None:
    """Print, then raise."""
    print("about to fail")
    raise ValueError(message)


def die(number: int, send: Send) -> None:
    """Be killed by a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(code: int, send: Send) -> None:
    """Exit without a word."""
    os._exit(code)


def endless(path: Path, send: Send) -> None:
    """Write this process's number to a file and go on for ever, deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path.write_text(str(os.getpid()))
    while True:
        send(0, 0)
        time.sleep(0.05)


def report(loggers: Loggers, iteration: int) -> None:
    """Tell how far a run is."""
    for logger in loggers:
        logger.progress(iteration, None)


def record(run: Run, options: Options, device: str = "a test") -> Result:
    """Make a whole record of a run, as a training would."""
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


def put(result: Result, folder: Path) -> Path:
    """Write a record into the folder of its run, whoever holds the lease."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "result.json"
    path.write_text(result.to_json())
    return path


def train(run: Run, options: Options, lease: Lease, loggers: Loggers, history: History) -> Result:
    """Stand in for a training where the scheduler is the subject.

    Seed 1 raises, seed 2 is killed, seed 3 is slow, seed 5 is told to end, seed 6 is killed the first time, seed 7 runs
    out of memory the first two times, seed 8 has no room on the disk the first time, seed 9 can have no CUDA graph,
    seed 10 waits for `OUT/go`.
    """
    report(loggers, 1)
    first = options.out / f"seed-{run.seed}"
    if run.seed == 6 and not first.exists():
        first.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if run.seed == 8 and not first.exists():
        first.touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    if run.seed == 9 and options.graph_failure is None:
        raise GraphError("graph", RuntimeError("its losses differ"))
    if run.seed == 7:
        return _hungry(run, options, lease, history, first)
    if run.seed == 1:
        raise ValueError("seed 1 fails")
    if run.seed == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    while run.seed == 10 and not (options.out / "go").exists():
        time.sleep(0.05)
    if run.seed == 5:
        os.kill(os.getpid(), signal.SIGTERM)
    if run.seed == 3:
        time.sleep(60)
    visible: Any = os.environ.get("CUDA_VISIBLE_DEVICES")
    result = record(run, options, f"{options.device} sees {visible!r}")
    step = {"step": options.graph_failure} if options.graph_failure else {}
    result = replace(result, history=list(history), environment=step)
    return lease.write_result(result)


def _hungry(run: Run, options: Options, lease: Lease, history: History, tried: Path) -> Result:
    """Out of memory at the first two attempts."""
    tried.mkdir(exist_ok=True)
    mine = tried / str(len(list(tried.iterdir())))
    mine.touch()
    result = replace(record(run, options), history=list(history))
    if mine.name in "01":
        failed = {"status": "error", "test_accuracy": None, "error": "CUDA out of memory", "passing": "out of memory"}
        result = replace(result, **failed)  # as train_run does with what torch raises
    return lease.write_result(result)


def die_training(*_: object) -> None:
    """Be killed while training."""
    print("about to die", flush=True)
    die(signal.SIGKILL, print)


def patient(run: Run, options: Options, lease: Lease, loggers: Loggers, history: History) -> Result | None:
    """Stand in for a training that takes until `OUT/go` is there, and that heeds signals: each start is noted."""
    told: list[int] = []
    for one in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(one, lambda number, _: told.append(number))
    folder = options.out / "runs" / run.run_id
    with (folder / "starts").open("a") as file:
        file.write(f"{os.environ.get('SLURM_JOB_ID', os.getppid())} {os.environ.get('SLURMD_NODENAME', os.getpid())}\n")
    while not (options.out / "go").exists():
        if told:
            (folder / "checkpoint").write_text(signal.Signals(told[0]).name)
            return None
        report(loggers, 1)
        time.sleep(0.05)
    result = replace(record(run, options), history=list(history))
    return lease.write_result(result)


def patient_work(request: Any, needs_gpu: bool, retried: Any, seconds: float) -> Any:
    """Do the work of a cluster's worker, with `patient` in place of the training."""
    return _work("workers:patient", request, needs_gpu, retried, seconds)


def trained_work(request: Any, needs_gpu: bool, retried: Any, seconds: float) -> Any:
    """Do the work of a cluster's worker, with `trained` in place of the training."""
    return _work("workers:trained", request, needs_gpu, retried, seconds)


def _work(train: str, *arguments: Any) -> Any:
    from replicate import carry_out  # not loaded by every process of a test

    carry_out.run_all = partial(carry_out.run_all, train=train)
    return carry_out.work(*arguments)


def trained(run: Run, options: Options, lease: Lease, loggers: Loggers, history: History) -> Result | None:
    """Train, in at most two parts: the first waits under way for SIGTERM, the second must not initialise anew."""
    from replicate.init.schemes import SCHEMES  # torch, which the other tasks do without
    from replicate.training import curve
    from replicate.training.train import train_run

    folder = options.out / "runs" / run.run_id
    with (folder / "starts").open("a") as file:
        file.write(f"{os.environ['SLURM_JOB_ID']} {os.environ['SLURMD_NODENAME']}\n")
    first = not (folder / "checkpoint.pt").exists()
    curve.PROGRESS_SECONDS = 0.0  # word of every chunk

    class Waits(Logger):
        def progress(self, iteration: int, test_accuracy: float | None) -> None:
            if first:
                (folder / "waits").touch()
                _await_sigterm()

    if not first:
        SCHEMES.clear()  # whoever initialises fails
    return train_run(run, options, lease, [*loggers, Waits()], history)


def _await_sigterm() -> None:
    """Return once the signal has come and whoever handles it has been told."""
    told: list[int] = []
    handler: Any = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: Any) -> None:
        told.append(number)
        handler(number, frame)

    signal.signal(signal.SIGTERM, note)
    while not told:
        time.sleep(0.05)
    signal.signal(signal.SIGTERM, handler)
