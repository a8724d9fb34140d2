"""The LightningModule: a classifier by any net, trained with the paper's SGD, many iterations a step of Lightning."""

from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.training.steps import Batch, Eager, Steps
from replicate.training.team import Alone


class DivergedError(Exception):
    """The training loss is not finite."""


class Classifier(pl.LightningModule):
    """Softmax cross-entropy and SGD around a net that it is given.

    Optimisation is manual and in chunks: one `training_step` takes a chunk of batches and makes an iteration of each,
    for what Lightning does around a step takes longer than an iteration of a small net on a GPU. So Lightning's
    `global_step` stands still; `iteration` counts.

    Args:
        net: maps images (n, c, h, w) to logits (n, classes).
        lr: initial learning rate.
        momentum: of SGD. PyTorch keeps the learning rate outside the momentum buffer, Caffe inside; they differ for a
            few iterations after each milestone. Ours is PyTorch's.
        weight_decay: L2 factor on weights; biases have none (released code: `decay_mult: 0`).
        milestones: iterations after which the learning rate is multiplied by lr_factor.
        lr_factor: see milestones.
        clip_norm: gradient-norm clipping, None for none.
        team: the processes that train the net; None: this one alone.
        steps: makes the iterations of a chunk; None: one operation after another.
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
        clip_norm: float | None = None,
        team: Alone | None = None,
        steps: Steps | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = net
        self.team = team or Alone()
        self.steps: Steps = steps or Eager()
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self.milestones, self.lr_factor, self.clip_norm = milestones, lr_factor, clip_norm
        self.iteration = 0  # optimiser steps taken
        # Summed on the device, read once a row of the curve; in `wide`, which no sum of finite losses overflows.
        self.totals = {stage: torch.zeros(3, dtype=torch.float64) for stage in ("train", "val", "test")}

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Mean loss of a batch of images (n, c, h, w) and labels (n,); adds to the totals of its stage."""
        loss, sums = self.measure(batch)
        self.add(stage, sums)
        return loss

    def measure(self, batch: Batch, forward: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Mean loss of a batch; and its sums (3,): losses, right answers, images.

        Args:
            batch: images (n, c, h, w) and labels (n,).
            forward: takes the place of the net.
        """
        images, labels = batch
        logits = (forward or self)(images)
        # bf16 logits would round the loss to 3 digits; float64 ones stay what they are.
        loss = F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels)
        correct = (logits.argmax(1) == labels).sum()
        n = torch.full_like(correct, len(labels))
        return loss, torch.stack([loss.detach().to(wide(loss.device)) * n, correct, n])

    def add(self, stage: str, sums: Tensor) -> None:
        """Add to the totals of a stage."""
        self.totals[stage] = self.totals[stage].to(sums) + sums

    def training_step(self, chunk: Iterable[Batch], chunk_index: int) -> None:
        """Make an iteration of each batch of the chunk.

        Raises:
            DivergedError: a loss of the chunk is not finite. `iteration` is then the number of steps before that loss.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        losses = self.steps(self, optimizer, chunk)
        finite = torch.isfinite(self.team.losses(losses))  # read once a chunk: it waits for the device
        if not finite.all():
            self.iteration -= len(losses) - int(finite.int().argmin())
            raise DivergedError

    def learning_rate(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0: multiplied by lr_factor at each milestone that is reached."""
        lr = self.lr
        for milestone in self.milestones:
            if milestone <= iteration:
                lr *= self.lr_factor
        return lr

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a batch, at a row of the curve."""
        self.step(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a batch, outside training."""
        self.step(batch, "test")

    def take(self, stage: str) -> tuple[float, float]:
        """Mean loss in nats and accuracy in % since the last call for this stage, whose totals start anew."""
        loss, correct, n = self.team.total(self.totals[stage]).tolist()
        self.totals[stage] = torch.zeros(3, dtype=torch.float64)
        return loss / n, 100 * correct / n

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD with biases free of weight decay; the learning rate is set by the steps."""
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        biases = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        # One kernel for all parameters on a GPU; on a CPU the records that there are come from the plain loop.
        fused = all(p.is_cuda for p in self.net.parameters()) or None
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, fused=fused)


def wide(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, but on Apple's GPU float32, whose integers end at 2**24."""
    return torch.float32 if device.type == "mps" else torch.float64
