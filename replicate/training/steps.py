"""The iterations of a chunk, one operation after another."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from replicate.training.module import Classifier

Batch = tuple[Tensor, Tensor]


class Steps(Protocol):
    """A way to make the iterations of a chunk. `name` says which, for the record."""

    name: str

    def __call__(self, module: "Classifier", optimizer: Optimizer, chunk: Any) -> Tensor:
        """Make an iteration of each batch; `module.iteration` counts them.

        Returns:
            The mean loss (n,) of each before its step. One that is not finite does not end the chunk.
        """


class Eager:
    """Makes the iterations as they come."""

    name = "eager"

    def __call__(self, module: "Classifier", optimizer: Optimizer, chunk: Iterable[Batch]) -> Tensor:
        """Make an iteration of each batch."""
        losses = []
        for batch in chunk:
            set_rate(optimizer, module.learning_rate(module.iteration))
            losses.append(iteration(module, optimizer, partial(module.step, batch, "train")))
            module.iteration += 1
        return torch.stack(losses)


def iteration(module: "Classifier", optimizer: Optimizer, forward: Callable[[], Tensor]) -> Tensor:
    """Make one iteration: the loss that `forward` gives, its gradients, the optimiser's step."""
    optimizer.zero_grad()
    loss = forward()
    with torch.autocast(loss.device.type, enabled=False):  # Lightning's spans the whole chunk
        module.team.backward(module, loss)
        if module.run.clip_norm is not None:
            nn.utils.clip_grad_norm_(module.net.parameters(), module.run.clip_norm)
        optimizer.step()
    return loss.detach()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
