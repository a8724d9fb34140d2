"""What runs in the processes of a round of chaos.py: the usual command, and trainings that log what happens."""

import fcntl
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from replicate.matrix import scheduler
from replicate.options import Options
from replicate.run import Run
from replicate.store import lease, owner
from replicate.store.result import Attempt, BadRecordError, Result, read_result
from replicate.training.logger import Logger, Progress

LOG = "CHAOS_LOG"  # environment variable: the folder in which the trainings of a round log what happens
if LOG in os.environ:  # in the processes of a round: do not wait for minutes if a lease cannot be read
    lease.HEARTBEAT_SECONDS, owner.STALE_SECONDS = 0.5, 5.0


def train(
    run: Run, options: Options, held: lease.Lease, progress: Progress, logger: Logger, history: Sequence[Attempt]
) -> Result | None:
    """Train a run, and log when it began and finished, and whether it should not have begun."""
    from replicate.training import train as training

    log = Path(os.environ[LOG])
    write = partial(_append, log / run.run_id)
    with (log / f"{run.run_id}.lock").open("a") as file:  # locked until this process ends, even if it is killed
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            write("concurrent")
        if finished(held.folder.result):
            write("repeated")
        write("began")
        result = training.train_run(run, options, held, progress, logger, history)
        if result is not None and result.final:
            write(f"finished edition:{getattr(training, 'EDITION', 0)}:{result.sources}")
    return result


def finished(path: Path) -> bool:
    """Whether there is a finished record at this path."""
    try:
        return read_result(path).final
    except (OSError, BadRecordError):
        return False


def scheduler_process(words: list[str]) -> int:
    """Carry out a command line of `replicate`, with `train` in its workers."""
    from replicate import cli

    scheduler.Scheduler = partial(scheduler.Scheduler, train="chaos_worker:train")  # type: ignore[misc, assignment]
    return cli.main(words)


def _append(path: Path, word: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{word}\n".encode())
    os.close(handle)
