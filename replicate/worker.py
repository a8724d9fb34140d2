"""Carries out one run in a process of its own: brings its lease, its training and its logger together."""

import contextlib
import os
import traceback

from replicate.errors import GraphError
from replicate.matrix.task import EXIT_LEASE_LOST, GraphFailed, State, Task, TaskOutcome, recorded_result
from replicate.names import resolve
from replicate.options import Options
from replicate.plugins import register
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Result
from replicate.training.logger import Logger, Progress


def run_task(task: Task, send: Progress) -> TaskOutcome:
    """Carry out a run, unless it is done already or another process holds its lease.

    Args:
        task: what to do.
        send: called with the arguments of `Progress`.
    """
    register(task.options.plugins)
    lease = task.acquire(task.token)
    if lease is None:
        return State.ELSEWHERE
    with lease, lease.heartbeat(lambda: os._exit(EXIT_LEASE_LOST)), lease.temporary_files():
        try:
            return _train(task, lease, send)
        except OSError:
            if lease.held:
                raise
            return State.ELSEWHERE  # the lease was taken over


def make_logger(run: Run, options: Options, lease: Lease) -> Logger:
    """Make the logger that the options of a run ask for."""
    if options.logging.logger != "wandb":
        from replicate.training.lightning_logger import LightningLogger  # here, because it loads torch

        return LightningLogger(run, options.logging.logger, lease.folder.path)
    if options.logging.mode == "off":
        return Logger()
    try:
        from replicate.tracking.logger import WandbLogger  # here, because W&B takes a second to import
    except Exception as error:  # of a damaged installation; a training does not need W&B
        print(f"W&B: {error!r}; the run continues without it")
        return Logger()
    return WandbLogger(run, options, lease.folder.path)


def _train(task: Task, lease: Lease, send: Progress) -> TaskOutcome:
    if task.options.graph_failure is None:  # else the log describes the failure of the attempt before
        with contextlib.suppress(OSError):
            os.truncate(task.folder.log, 0)
    # Not earlier: another process may have finished the run, or failed, before we got the lease.
    recorded = recorded_result(lease)
    if recorded is not None and task.is_superseded_by(recorded):
        return State.ELSEWHERE

    def progress(iteration: int, test_accuracy: float | None, stage: str = "", /) -> None:
        lease.report(iteration, test_accuracy, stage)  # for other hosts
        send(iteration, test_accuracy, stage)

    logger = make_logger(task.run, task.options, lease)
    # By name, because the processes that start tasks do not load torch.
    train = resolve(task.train)
    try:
        result: Result | None = train(task.run, task.options, lease, progress, logger, task.history(recorded))
    except GraphError as error:
        traceback.print_exc()
        logger.finish(None)
        return GraphFailed(str(error))
    if result is None:
        return State.STOPPED
    if result.final:
        lease.sweep()
    return result
