"""LSUV before the first step of a training with Lightning."""

import contextlib
from collections.abc import Generator
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from pytorch_lightning.utilities.seed import isolate_rng
from torch import distributed

from replicate.init.lsuv import lsuv_
from replicate.init.report import Report


class LSUVInit(pl.Callback):
    """Initialises the model by LSUV right before the first step, on the trainer's own batches and device.

    Use it as `Trainer(callbacks=[LSUVInit()])`. Batches go through the module's transfer hooks, and the module gets the
    first part of each, as in `module(images)`; give `forward` for another way. The random streams are restored, so that
    the training gets the same batches as without the callback, unless a loader has a generator of its own. If several
    processes train the model, all get the weights of rank 0. A training that is resumed from a checkpoint keeps its
    weights.

    Args:
        **options: of `lsuv_`.

    Attributes:
        report: of the initialisation; None if there was none.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.report: Report | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Initialise the module, unless it was trained before."""
        if trainer.ckpt_path is not None or trainer.global_step > 0:
            return
        with isolate_rng(), contextlib.closing(_batches(trainer)) as batches:
            self.report = lsuv_(pl_module, lambda: next(batches), **self.options)
        if trainer.world_size > 1:
            for parameter in pl_module.parameters():
                distributed.broadcast(parameter.data, src=0)


def _batches(trainer: pl.Trainer) -> Generator[Any, None, None]:
    """Yield batches of the training set without end, as the training step gets them."""
    loaders: Any = trainer.train_dataloader
    if isinstance(loaders, (dict, list, tuple)):
        loaders = CombinedLoader(loaders)
    while True:
        for item in loaders:
            batch = item[0] if isinstance(loaders, CombinedLoader) else item
            yield trainer.precision_plugin.convert_input(trainer.strategy.batch_to_device(batch))
