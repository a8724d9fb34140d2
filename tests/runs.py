"""A training in a test, under a lease of its own."""

from collections.abc import Callable

from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.training import train
from replicate.worker import make_loggers

Progress = Callable[[int, float | None], None]


def train_run(run: Run, options: Options, progress: Progress = lambda iteration, accuracy: None) -> Result | None:
    """Train a run in its folder, as its worker does."""
    lease = acquire(RunFolder.of(options.out, run), Owner(options.device, run.iterations))
    assert lease is not None
    with lease:
        return train.train_run(run, options, lease, make_loggers(run, options, lease, progress))
