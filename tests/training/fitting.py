"""Training in a test without a run's folder: real data module, real Trainer, no record."""

from pathlib import Path

import pytorch_lightning as pl
import torch

from replicate.data.datamodule import DeviceData
from replicate.options import Options
from replicate.training.build import make_trainer
from replicate.training.module import Classifier

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fit(model: Classifier, data: DeviceData, *callbacks: pl.Callback) -> None:
    """Train in the model's own dtype, or in the precision of its run."""
    make_trainer(model.run, Options(Path("out"), device=data.device), data, list(callbacks)).fit(model, datamodule=data)


class KeptLosses:
    """Keeps the loss of every iteration that some steps make."""

    def __init__(self, steps) -> None:
        self.steps, self.name = steps, steps.name
        self.losses: list[float] = []

    def __call__(self, module, optimizer, chunk) -> torch.Tensor:
        losses = self.steps(module, optimizer, chunk)
        self.losses += module.group.all_reduce(losses * module.group.share).tolist()  # of whole batches
        return losses
