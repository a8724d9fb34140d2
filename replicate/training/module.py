"""The LightningModule: a classifier by any net, trained with many iterations per step of Lightning."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from replicate.run import Run
from replicate.training.distributed import SingleProcess
from replicate.training.optimizers import make_optimizer

Batch = tuple[Tensor, Tensor]  # images (n, c, h, w) and labels (n,)


class DivergedError(Exception):
    """The training loss is not finite."""


class Classifier(pl.LightningModule):
    """Softmax cross-entropy and an optimiser around any network.

    Optimisation is manual and in chunks: one `training_step` takes a chunk of batches and makes an iteration of each,
    because Lightning's own work around a step takes longer than an iteration of a small net on a GPU. So Lightning's
    `global_step` does not count iterations; `iteration` does.

    Args:
        net: maps images (n, c, h, w) to logits (n, classes).
        run: gives the optimiser, the learning rate and its milestones, and gradient clipping.
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
        # Loss, right answers and images, summed on the device and read once per row of the curve; in float64, which no
        # sum of finite losses overflows.
        self.totals = {stage: torch.zeros(3, dtype=torch.float64) for stage in ("train", "val")}
        # An exponential moving average of the weights, which begins with the initial ones
        self.averaged = copy.deepcopy(net) if run.ema else None
        self._tested: list[tuple[Tensor, Tensor]] = []  # classes and their probabilities, by the latest evaluation

    @property
    def optimizer(self) -> Optimizer:
        """The optimiser of a training that has begun, without Lightning's wrapper."""
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]  # one, as configured

    def get_extra_state(self) -> dict[str, Any]:
        """Return what `state_dict` holds besides the weights."""
        return {"iteration": self.iteration}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore it, for `load_state_dict`."""
        self.iteration = state["iteration"]

    def on_fit_start(self) -> None:
        """Start from the same weights on every rank."""
        for net in (self.net, self.averaged):
            if net is not None:
                self.group.broadcast_(net)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch, from logits (n, classes) and labels (n,)."""
        # bf16 logits would round the loss to 3 digits; float64 ones stay as they are.
        return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels)

    def evaluate(self, logits: Tensor, labels: Tensor, stage: str) -> Tensor:
        """Return the mean loss of a batch, from logits (n, classes) and labels (n,); add to the totals of the stage."""
        loss = self.loss(logits, labels)
        self.add(stage, loss.detach().double() * len(labels), (logits.argmax(1) == labels).sum(), len(labels))
        return loss

    def add(self, stage: str, losses: Tensor, correct: Tensor, n: int) -> None:
        """Add to the totals of a stage.

        Args:
            stage: `train` or `val`.
            losses: their sum over the images, in float64.
            correct: number of right answers.
            n: number of images.
        """
        sums = torch.stack([losses, correct, torch.full_like(correct, n)])
        self.totals[stage] = self.totals[stage].to(sums) + sums

    def take(self, stage: str) -> tuple[float, float]:
        """Return the mean loss in nats and the accuracy in % since the last call for this stage."""
        loss, correct, n = self.group.all_reduce(self.totals[stage]).tolist()
        self.totals[stage] = torch.zeros(3, dtype=torch.float64)
        return loss / n, 100 * correct / n

    def training_step(self, chunk: Iterable[Batch], chunk_index: int) -> None:
        """Make an iteration of each batch of the chunk.

        Raises:
            DivergedError: a loss of the chunk is not finite; `iteration` then counts the steps before that loss.
        """
        losses = self.steps(self, self.optimizer, chunk)
        # Mean losses of whole batches; read once per chunk, because that waits for the device.
        finite = torch.isfinite(self.group.all_reduce(losses * self.group.share))
        if not finite.all():
            self.iteration -= len(losses) - int(finite.int().argmin())
            raise DivergedError(f"the training loss is not finite after {self.iteration} iterations")

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Evaluate a batch, for a row of the curve, and keep what the net predicts."""
        images, labels = batch
        logits = self.test_logits(images)
        self.evaluate(logits, labels, "val")
        self._tested = [*(self._tested if batch_index else []), (logits.argmax(1), logits.float().softmax(1))]

    def test_logits(self, images: Tensor) -> Tensor:
        """Return the logits of test images: of the averaged weights, and with the mirror images, if the run says so."""
        net = self.net if self.averaged is None else self.averaged
        logits: Tensor = net(images)
        if not self.run.test_mirror:
            return logits
        both = torch.stack([logits, net(images.flip(3))]).float()
        return both.log_softmax(2).logsumexp(0)  # softmax makes the mean of both probabilities of it

    def predictions(self) -> tuple[Tensor, Tensor]:
        """Return what the latest evaluation predicts for each test image. Every rank must call it.

        Returns:
            Class (n,), and probability of each class (n, classes).
        """
        classes, probabilities = (torch.cat(parts).cpu() for parts in zip(*self._tested, strict=True))
        parts = self.group.gather({"classes": classes, "probabilities": probabilities})
        wholes = []
        for name, like in (("classes", classes), ("probabilities", probabilities)):
            whole = like.new_empty(sum(len(part[name]) for part in parts), *like.shape[1:])
            for rank, part in enumerate(parts):
                whole[rank :: len(parts)] = part[name]  # as DeviceData.shard divides the test images
            wholes.append(whole)
        return wholes[0], wholes[1]

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate of an iteration, counted from 0: lr times lr_factor for each milestone reached."""
        reached = sum(milestone <= iteration for milestone in self.run.milestones)
        return math.prod([self.run.lr_factor] * reached, start=self.run.lr)

    def configure_optimizers(self) -> Optimizer:
        """Make the run's optimiser, for Lightning."""
        return make_optimizer(self.run, self.net)

    def update(self, optimizer: Optimizer, loss: Tensor, after_backward: Callable[[], None] | None = None) -> None:
        """Take one step of the optimiser.

        Args:
            optimizer: of the net's weights, which have no gradients yet.
            loss: the mean loss of this process's part of the batch.
            after_backward: called between the backward pass and the step.
        """
        with torch.autocast(loss.device.type, enabled=False):  # Lightning's autocast spans the whole chunk
            self.group.backward(self, loss)
            if after_backward is not None:
                after_backward()
            if self.run.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.run.clip_norm)
            optimizer.step()

    @torch.no_grad()
    def finish_iteration(self) -> None:
        """Count an iteration, and average the weights after it."""
        self.iteration += 1
        if self.averaged is not None:
            averages: list[Tensor] = list(self.averaged.parameters())
            weights: list[Tensor] = list(self.net.parameters())
            torch._foreach_lerp_(averages, weights, 1 - self.run.ema)
            for average, buffer in zip(self.averaged.buffers(), self.net.buffers(), strict=True):
                average.copy_(buffer)  # batch normalisation's running statistics are averages already


class Steps(Protocol):
    """A way to make the iterations of a chunk. `name` identifies it in the record."""

    name: str

    def __call__(self, module: Classifier, optimizer: Optimizer, chunk: Any) -> Tensor:
        """Make an iteration of each batch; `module.iteration` counts them.

        Returns:
            The mean loss (n,) of each before its step. One that is not finite does not end the chunk.
        """


class Eager:
    """Makes the iterations one operation after another.

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
            optimizer.zero_grad()
            images, labels = batch
            loss = module.evaluate(module.net(images), labels, "train")
            module.update(optimizer, loss)
            losses.append(loss.detach())
            module.finish_iteration()
        return torch.stack(losses)
