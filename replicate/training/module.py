"""The LightningModule: a classifier by any net, trained with the paper's SGD."""

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F


class DivergedError(Exception):
    """The training loss is not finite."""


class Classifier(pl.LightningModule):
    """Softmax cross-entropy and SGD around a net that it is given.

    Args:
        net: maps images (n, c, h, w) to logits (n, classes).
        lr: initial learning rate.
        momentum: of SGD. PyTorch keeps the learning rate outside the momentum buffer, Caffe inside; they differ for a
            few iterations after each milestone. Ours is PyTorch's.
        weight_decay: L2 factor on weights; biases have none (released code: `decay_mult: 0`).
        milestones: iterations after which the learning rate is multiplied by lr_factor.
        lr_factor: see milestones.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        milestones: Sequence[int],
        lr_factor: float,
    ) -> None:
        super().__init__()
        self.net = net
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.milestones, self.lr_factor = milestones, lr_factor
        # Summed on the device, read once a row of the curve; for sums of up to 50,000 losses float32 is enough.
        self.totals = {stage: torch.zeros(3) for stage in ("train", "val", "test")}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        """Mean loss of a batch of images (n, c, h, w) and labels (n,); adds to the totals of its stage."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits.float(), labels)
        correct = (logits.argmax(1) == labels).sum()
        n = torch.tensor(len(labels), device=loss.device)
        total = torch.stack([loss.detach() * n, correct, n])
        self.totals[stage] = self.totals[stage].to(total.device) + total
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """One iteration.

        Raises:
            DivergedError: the loss is not finite.
        """
        loss = self.step(batch, "train")
        if not torch.isfinite(loss):
            raise DivergedError
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Evaluate a batch, at a row of the curve."""
        self.step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        """Evaluate a batch, outside training."""
        self.step(batch, "test")

    def take(self, stage: str) -> tuple[float, float]:
        """Mean loss in nats and accuracy in % since the last call for this stage, whose totals start anew."""
        loss, correct, n = self.totals[stage].tolist()
        self.totals[stage] = torch.zeros(3)
        return loss / n, 100 * correct / n

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with biases free of weight decay, and the milestones in iterations."""
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        biases = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        sgd = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        steps = torch.optim.lr_scheduler.MultiStepLR(sgd, list(self.milestones), gamma=self.lr_factor)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": steps, "interval": "step"}}
