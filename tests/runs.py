"""A training in a test, under a lease of its own."""

import os
import signal

from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.training import train
from replicate.training.logger import Progress
from replicate.worker import make_logger


def train_run(run: Run, options: Options, progress: Progress = lambda *_: None) -> Result | None:
    """Train a run in its folder, as its worker does."""
    lease = acquire(RunFolder.of(options.out, run), Owner(options.device, run.iterations))
    assert lease is not None
    with lease:
        return train.train_run(run, options, lease, progress, make_logger(run, options, lease))


def stop_at(at: int, number: int = signal.SIGTERM) -> Progress:
    """Make a progress function that signals this process at an iteration."""
    return lambda iteration, *_: os.kill(os.getpid(), number) if iteration == at else None
