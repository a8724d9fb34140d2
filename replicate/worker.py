"""Carries out one run in a process of its own: brings its lease, its training and its loggers together."""

import contextlib
import os
import traceback
from collections.abc import Callable

from replicate.errors import GraphError
from replicate.matrix.task import EXIT_LEASE_LOST, GraphFailed, State, Task, TaskOutcome, recorded_result
from replicate.names import resolve
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Result
from replicate.tracking.logger import WandbLogger
from replicate.training.logger import Logger

Send = Callable[[int, float | None], None]


class ProgressLogger(Logger):
    """Reports progress to the lease, for other hosts, and to the scheduler that started this process."""

    def __init__(self, lease: Lease, send: Send) -> None:
        self.lease, self.send = lease, send

    def progress(self, iteration: int, test_accuracy: float | None) -> None:
        """Report it."""
        self.lease.report(iteration, test_accuracy)
        self.send(iteration, test_accuracy)


def run_task(task: Task, send: Send) -> TaskOutcome:
    """Carry out a run, unless it is done already or another process holds its lease.

    Args:
        task: what to do.
        send: called with the iteration and the latest test accuracy in %.
    """
    lease = task.acquire(task.token, task.expired_token)
    if lease is None:
        return State.ELSEWHERE
    with lease, lease.heartbeat(lambda: os._exit(EXIT_LEASE_LOST)):
        try:
            return _train(task, lease, send)
        except OSError:
            if lease.held:
                raise
            return State.ELSEWHERE  # the lease was taken over


def make_loggers(run: Run, options: Options, lease: Lease, send: Send) -> list[Logger]:
    """Make the loggers that the options of a run ask for."""
    loggers: list[Logger] = [ProgressLogger(lease, send)]
    if options.wandb != "off":
        loggers.append(WandbLogger(run, options, lease.folder.path))
    return loggers


def _train(task: Task, lease: Lease, send: Send) -> TaskOutcome:
    if task.options.graph_failure is None:  # else the log describes the failure of the attempt before
        with contextlib.suppress(OSError):
            os.truncate(task.folder.log, 0)
    # Not earlier: another process may have finished the run, or failed, before we got the lease.
    recorded = recorded_result(lease)
    if recorded is not None and task.is_superseded_by(recorded):
        return State.ELSEWHERE
    loggers = make_loggers(task.run, task.options, lease, send)
    # By name, because the processes that start tasks do not load torch.
    train = resolve(task.train)
    try:
        result: Result | None = train(task.run, task.options, lease, loggers, task.history(recorded))
    except GraphError as error:
        traceback.print_exc()
        for logger in loggers:
            logger.finish(None)
        return GraphFailed(str(error))
    if result is None:
        return State.STOPPED
    if result.final:
        lease.sweep()
    return result
