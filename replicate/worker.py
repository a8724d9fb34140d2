"""Carries out one run in a process of its own: brings its lease, its training and its loggers together."""

import contextlib
import os
import traceback
from collections.abc import Callable

from replicate.errors import GraphError, transient_kind
from replicate.matrix.local import resolve
from replicate.matrix.task import (
    EXIT_LEASE_LOST,
    Busy,
    Done,
    Failed,
    GraphFailed,
    Stopped,
    Task,
    TaskOutcome,
    recorded_result,
)
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Result
from replicate.tracking.logger import WandbLogger
from replicate.training.logger import Logger

Send = Callable[[int, float | None], None]


class ProgressLogger(Logger):
    """Passes progress on: to the lease, for other hosts, and to the scheduler that started this process."""

    def __init__(self, lease: Lease, send: Send) -> None:
        self.lease, self.send = lease, send

    def progress(self, iteration: int, test_accuracy: float | None) -> None:
        """Pass it on."""
        self.lease.report(iteration, test_accuracy)
        self.send(iteration, test_accuracy)


def run_task(task: Task, send: Send) -> TaskOutcome:
    """Carry out a run, if it is still to be done and nobody else does it.

    Args:
        task: what to do.
        send: called with the iteration and the latest test accuracy in %.
    """
    try:
        lease = task.acquire(task.token, task.expired_token)
        if lease is None:
            return Busy()
        with lease, lease.heartbeat(lambda: os._exit(EXIT_LEASE_LOST)):
            try:
                return _train(task, lease, send)
            except OSError:
                if lease.held:
                    raise
                return Busy()  # the lease was taken over
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Failed(f"{type(error).__name__}: {error}", transient_kind(error))


def make_loggers(run: Run, options: Options, lease: Lease, send: Send) -> list[Logger]:
    """Make the loggers that a run asks for."""
    loggers: list[Logger] = [ProgressLogger(lease, send)]
    if options.wandb != "off":
        loggers.append(WandbLogger(run, options, lease.folder.path))
    return loggers


def _train(task: Task, lease: Lease, send: Send) -> TaskOutcome:
    if task.options.graph_failure is None:  # else the attempt before says in the log how it failed
        with contextlib.suppress(OSError):
            os.truncate(task.folder.log, 0)
    # Only now: another may have finished it, or failed, between the scheduler's look and our lease.
    recorded = recorded_result(lease)
    if recorded is not None and task.is_news(recorded):
        return Done(recorded, ours=False)
    loggers = make_loggers(task.run, task.options, lease, send)
    # By name, because the processes that start tasks do without torch.
    train = resolve(task.train)
    try:
        result: Result | None = train(task.run, task.options, lease, loggers, task.history(recorded))
    except GraphError as error:
        traceback.print_exc()
        for logger in loggers:
            logger.finish(None)
        return GraphFailed(str(error))
    if result is None:
        return Stopped()
    if result.final:
        lease.sweep()
    return Done(result)
