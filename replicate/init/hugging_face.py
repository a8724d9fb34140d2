"""LSUV before a training with Hugging Face's Trainer."""

from collections.abc import Iterable
from typing import Any, Protocol

from torch import nn

from replicate.init.lsuv import lsuv_
from replicate.init.report import Report


class Trainer(Protocol):
    """What is needed of `transformers.Trainer`."""

    model: nn.Module

    def get_train_dataloader(self) -> Iterable[Any]:
        """Return the batches of the training set."""
        ...


def lsuv_trainer_(trainer: Trainer, **options: Any) -> Report:
    """Initialise the model of a trainer by LSUV, in place, on the trainer's own batches and device.

    Call it before `trainer.train()`, which gives every process the weights of rank 0.

    Args:
        trainer: a `transformers.Trainer`.
        **options: of `lsuv_`.

    Returns:
        The report of `lsuv_`.
    """
    return lsuv_(trainer.model, trainer.get_train_dataloader(), **options)
