"""The iterations of a chunk, one operation after another."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from replicate.training.half_copies import HalfCopies

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
    """Makes the iterations as they come.

    Args:
        name: for the record.
    """

    def __init__(self, name: str = "eager") -> None:
        self.name = name

    def __call__(self, module: "Classifier", optimizer: Optimizer, chunk: Iterable[Batch]) -> Tensor:
        """Make an iteration of each batch."""
        losses = []
        for batch in chunk:
            for group in optimizer.param_groups:
                group["lr"] = module.learning_rate(module.iteration)
            losses.append(iteration(module, optimizer, partial(module.step, batch, "train")))
            module.iteration += 1
        return torch.stack(losses)


def iteration(
    module: "Classifier", optimizer: Optimizer, forward: Callable[[], Tensor], copies: HalfCopies | None = None
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
