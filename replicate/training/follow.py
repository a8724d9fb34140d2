"""What the processes of a run beside the first one do: train their parts, and write nothing."""

import contextlib
import math
from typing import Any

import pytorch_lightning as pl
import torch

from replicate.data.sources import load
from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import RunFolder
from replicate.training import checkpoint
from replicate.training.environment import configure
from replicate.training.module import Classifier, DivergedError
from replicate.training.prepare import prepare
from replicate.training.stopping import StoppedError, Stops
from replicate.training.streams import stream_seed
from replicate.training.team import Alone
from replicate.training.train import identity_of
from replicate.training.trainer import make_trainer


class Following(Stops):
    """Takes part in what the first process does at the rows of the curve and for a checkpoint, and keeps nothing."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the sums of the training for the row."""
        assert isinstance(pl_module, Classifier)
        pl_module.take("train")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the sums of the evaluation for the row, and save if it is time."""
        assert isinstance(pl_module, Classifier)
        pl_module.take("val")
        super().on_validation_end(trainer, pl_module)

    def save(self, module: Classifier, ranks: list[dict[str, Any]]) -> None:
        """Leave it to the first process."""


def follow(run: Run, options: Options, team: Alone, resume: bool) -> None:
    """Train a part of every batch of a run, from the weights of the first process, as long as that does.

    Args:
        run: what is trained.
        options: how.
        team: this process's place among all; they are in a process group.
        resume: whether the first process goes on from the run's checkpoint.
    """
    configure(options)
    dataset = load(run.dataset, options.data_dir)
    state = (
        checkpoint.read(RunFolder.of(options.out, run), identity_of(run, dataset), options.device) if resume else None
    )
    # Nothing is initialised here: the strategy gives every process the weights of the first.
    ready = prepare(run, options.device, dataset, init=[], team=team)
    torch.manual_seed(stream_seed(run.seed, "dropout", team.rank))
    if state:
        checkpoint.take_up(state, ready.model, ready.data)
    following = Following(ready.data, math.inf, state, team)
    with contextlib.suppress(DivergedError, StoppedError):
        make_trainer(run, options, ready.data, [following], team).fit(ready.model, datamodule=ready.data)
