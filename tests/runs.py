"""Runs in tests: a training under a lease of its own, and records that are simply there."""

from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.training import train
from replicate.training.curve import Progress


def train_run(run: Run, options: Options, progress: Progress | None = None) -> Result | None:
    """Train a run in its folder, as its worker does."""
    lease = acquire(RunFolder.of(options.out, run), Owner(options.device, run.iterations))
    assert lease is not None
    with lease:
        return train.train_run(run, options, lease, progress)
