"""What the other processes of a run do: train their parts of the batches, and write nothing."""

import contextlib
import math

import pytorch_lightning as pl
import torch

from replicate.data.sources import load
from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import RunFolder
from replicate.training import checkpoint
from replicate.training.build import build_data, build_net, make_trainer
from replicate.training.checkpoint import Checkpoint, StoppedError
from replicate.training.environment import configure
from replicate.training.module import Classifier, DivergedError
from replicate.training.streams import stream_seed
from replicate.training.team import Alone


class RowTotals(pl.Callback):
    """Adds this process's sums to those that the first process writes at a row of the curve."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the sums of the training."""
        assert isinstance(pl_module, Classifier)
        pl_module.take("train")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the sums of the evaluation."""
        assert isinstance(pl_module, Classifier)
        pl_module.take("val")


def follow(run: Run, options: Options, team: Alone, resume: bool) -> None:
    """Train a part of every batch of a run, from the weights of the first process, as long as that does.

    Args:
        run: what is trained.
        options: how.
        team: this process's place among all; they are in a process group.
        resume: whether the first process continues from the run's checkpoint.
    """
    configure(options)
    dataset = load(run.dataset, options.data_dir)
    data = build_data(run, dataset, options.device, team)
    # Nothing is initialised here: the strategy gives every process the weights of the first.
    module = Classifier(build_net(run, len(dataset.classes), options.device), run, team)
    torch.manual_seed(stream_seed(run.seed, "dropout", team.rank))
    saver = Checkpoint({"module": module, "sampler": data.sampler}, math.inf)
    if resume:
        identity = checkpoint.identity(run, dataset.fingerprint)
        saver.restore(checkpoint.read(RunFolder.of(options.out, run), identity, options.device), team)
    with contextlib.suppress(DivergedError, StoppedError):
        make_trainer(run, options, data, [RowTotals(), saver], team).fit(module, datamodule=data)
        module.predictions()
