"""The LightningModule: a classifier by any net, trained with the paper's SGD, many iterations per step of Lightning."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from replicate.run import Run
from replicate.training.distributed import SingleProcess
from replicate.training.half_copies import HalfCopies

Batch = tuple[Tensor, Tensor]


class DivergedError(Exception):
    """The training loss is not finite, after so many iterations."""

    def __init__(self, iteration: int) -> None:
        super().__init__(f"the training loss is not finite after {iteration} iterations")
        self.iteration = iteration


class Classifier(pl.LightningModule):
    """Softmax cross-entropy and SGD around any network.

    Optimisation is manual and in chunks: one `training_step` takes a chunk of batches and makes an iteration of each,
    because what Lightning does around a step takes longer than an iteration of a small net on a GPU. So Lightning's
    `global_step` does not count iterations; `iteration` does.

    PyTorch keeps the learning rate outside the momentum buffer, Caffe inside; they differ for a few iterations after
    each milestone. Ours is PyTorch's.

    Args:
        net: maps images (n, c, h, w) to logits (n, classes).
        run: gives the learning rate and its milestones, momentum, weight decay and gradient clipping.
        group: the processes that train the net; None: only this one.
        steps: makes the iterations of a chunk; None: one operation after another.
    """

    def __init__(
        self, net: nn.Module, run: Run, group: SingleProcess | None = None, steps: "Steps | None" = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net, self.run = net, run
        self.group = group or SingleProcess()
        self.steps: Steps = steps or Eager()
        self.iteration = 0  # optimiser steps taken
        # Summed on the device, read once a row of the curve; in `wide`, which no sum of finite losses overflows.
        self.totals = {stage: torch.zeros(3, dtype=torch.float64) for stage in ("train", "val", "test")}
        self._predicted: list[Tensor] = []  # classes, by the latest evaluation

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser of a training that has begun, without Lightning's wrapper."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return optimizer

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` holds beside the weights."""
        return {"iteration": self.iteration}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take it from `load_state_dict`."""
        self.iteration = state["iteration"]

    def on_fit_start(self) -> None:
        """Start from the same weights on every rank."""
        self.group.broadcast_(self.net)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (n, c, h, w) to logits (n, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Mean loss of a batch of images (n, c, h, w) and labels (n,); adds to the totals of its stage."""
        return self._evaluate(batch, stage)[0]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch, from logits (n, classes) and labels (n,)."""
        # bf16 logits would round the loss to 3 digits; float64 ones stay what they are.
        return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels)

    def _evaluate(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        """Mean loss and predicted classes (n,); adds to the totals of the stage."""
        images, labels = batch
        logits = self(images)
        loss, predicted = self.loss(logits, labels), logits.argmax(1)
        self.add(stage, loss.detach().to(wide(loss.device)) * len(labels), (predicted == labels).sum(), len(labels))
        return loss, predicted

    def add(self, stage: str, losses: Tensor, correct: Tensor, n: int) -> None:
        """Add to the totals of a stage.

        Args:
            stage: `train`, `val` or `test`.
            losses: their sum over the images, in `wide`.
            correct: number of right answers.
            n: number of images.
        """
        sums = torch.stack([losses, correct, torch.full_like(correct, n)])
        self.totals[stage] = self.totals[stage].to(sums) + sums

    def training_step(self, chunk: Iterable[Batch], chunk_index: int) -> None:
        """Make an iteration of each batch of the chunk.

        Raises:
            DivergedError: a loss of the chunk is not finite; `iteration` is the number of steps before that loss.
        """
        losses = self.steps(self, self.optimizer, chunk)
        finite = torch.isfinite(self.group.reduce_losses(losses))  # read once a chunk: it waits for the device
        if not finite.all():
            self.iteration -= len(losses) - int(finite.int().argmin())
            raise DivergedError(self.iteration)

    def learning_rate(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0: multiplied by lr_factor at each milestone that is reached."""
        lr = self.run.lr
        for milestone in self.run.milestones:
            if milestone <= iteration:
                lr *= self.run.lr_factor
        return lr

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a batch, at a row of the curve, and keep what the net predicts."""
        predicted = self._evaluate(batch, "val")[1]
        self._predicted = [*(self._predicted if batch_index else []), predicted]

    def predictions(self) -> Tensor:
        """Predicted class of each test image (n,), by the latest evaluation. Every rank must call it."""
        return self.group.interleave(torch.cat(self._predicted).cpu())

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a batch, outside training."""
        self.step(batch, "test")

    def take(self, stage: str) -> tuple[float, float]:
        """Mean loss in nats and accuracy in % since the last call for this stage."""
        loss, correct, n = self.group.all_reduce(self.totals[stage]).tolist()
        self.totals[stage] = torch.zeros(3, dtype=torch.float64)
        return loss / n, 100 * correct / n

    def configure_optimizers(self) -> Optimizer:
        """SGD with biases free of weight decay (released code: `decay_mult: 0`); the steps set the learning rate."""
        weights = [p for p in self.net.parameters() if p.ndim > 1]
        biases = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": self.run.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        # One kernel for all parameters on a GPU; on a CPU the records that there are come from the plain loop.
        fused = all(p.is_cuda for p in self.net.parameters()) or None
        return torch.optim.SGD(groups, lr=self.run.lr, momentum=self.run.momentum, fused=fused)


def wide(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, but on Apple's GPU float32, whose integers end at 2**24."""
    return torch.float32 if device.type == "mps" else torch.float64


class Steps(Protocol):
    """A way to make the iterations of a chunk. `name` says which, for the record."""

    name: str

    def __call__(self, module: Classifier, optimizer: Optimizer, chunk: Any) -> Tensor:
        """Make an iteration of each batch; `module.iteration` counts them.

        Returns:
            The mean loss (n,) of each before its step. One that is not finite does not end the chunk.
        """


class Eager:
    """Makes the iterations as they come.

    Args:
        name: for the record.
    """

    def __init__(self, name: str = "eager") -> None:
        self.name = name

    def __call__(self, module: Classifier, optimizer: Optimizer, chunk: Iterable[Batch]) -> Tensor:
        """Make an iteration of each batch."""
        losses = []
        for batch in chunk:
            for group in optimizer.param_groups:
                group["lr"] = module.learning_rate(module.iteration)
            losses.append(iteration(module, optimizer, partial(module.step, batch, "train")))
            module.iteration += 1
        return torch.stack(losses)


def iteration(
    module: Classifier, optimizer: Optimizer, forward: Callable[[], Tensor], copies: HalfCopies | None = None
) -> Tensor:
    """Make one iteration: the loss that `forward` gives, its gradients, the optimiser's step.

    Args:
        module: what is trained.
        optimizer: of its weights.
        forward: makes the loss.
        copies: of the weights, if `forward` uses them in place of the weights.
    """
    optimizer.zero_grad()
    if copies is not None:
        copies.refresh()
    loss = forward()
    with torch.autocast(loss.device.type, enabled=False):  # Lightning's spans the whole chunk
        module.group.backward(module, loss)
        if copies is not None:
            copies.return_gradients()
        if module.run.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.net.parameters(), module.run.clip_norm)
        optimizer.step()
    return loss.detach()
