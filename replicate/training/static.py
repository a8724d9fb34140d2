"""What a captured iteration reads and writes, and a copy of what it changes."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from replicate.training.module import Classifier

Forward = Callable[[Tensor], Tensor]


class Static:
    """What a graph reads and writes: tensors whose places do not change.

    Args:
        images: (k·b, c, h, w) of a chunk, channels_last.
        labels: (k·b,).
        length: k, batches in this chunk.
        most: batches in the longest chunk.
    """

    def __init__(self, images: Tensor, labels: Tensor, length: int, most: int) -> None:
        size = len(labels) // length
        # Batch by batch, and in each the channels last: what is picked out is laid out as the net wants it.
        self.images = images.new_empty(most, size, *images.shape[2:], images.shape[1])
        self.labels = labels.new_empty(most, size)
        self.at = torch.zeros(1, dtype=torch.int64, device=images.device)  # the batch that is next
        self.losses = torch.zeros(most, dtype=torch.float64, device=images.device)
        self.sums = torch.zeros(3, dtype=torch.float64, device=images.device)
        self.forward: Forward | None = None  # takes the place of the net, where that was compiled

    def fill(self, images: Tensor, labels: Tensor) -> None:
        """Take over a chunk."""
        length = len(labels) // self.labels.shape[1]
        self.images[:length] = images.permute(0, 2, 3, 1).view(length, *self.images.shape[1:])  # k·b c h w -> k b h w c
        self.labels[:length] = labels.view(length, -1)
        self.rewind()

    def rewind(self) -> None:
        """Begin with the first batch again, and with nothing summed up."""
        self.at.zero_()
        self.sums.zero_()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pick out the batch that is next: images (b, c, h, w), labels (b,)."""
        images = self.images.index_select(0, self.at)[0].permute(0, 3, 1, 2)
        return images, self.labels.index_select(0, self.at)[0]

    def keep(self, loss: Tensor) -> None:
        """Note the loss of the batch, and go on to the next."""
        self.losses.index_copy_(0, self.at, loss[None].double())
        self.at += 1


class Snapshot:
    """Copies of what iterations change, to put it back where it is."""

    def __init__(self, module: "Classifier", optimizer: Optimizer) -> None:
        self._cuda = module.device.type == "cuda"
        self._weights = [parameter.detach().clone() for parameter in module.net.parameters()]
        found = (optimizer.state[parameter].get("momentum_buffer") for parameter in module.net.parameters())
        self._momenta = [None if momentum is None else momentum.clone() for momentum in found]
        self._generator = torch.cuda.get_rng_state() if self._cuda else torch.get_rng_state()

    @torch.no_grad()
    def restore(self, module: "Classifier", optimizer: Optimizer) -> None:
        """Put it back, in place: momenta that were not there yet are zero."""
        for parameter, weight, momentum in zip(module.net.parameters(), self._weights, self._momenta, strict=True):
            parameter.copy_(weight)
            now = optimizer.state[parameter].get("momentum_buffer")
            if now is not None:
                now.zero_() if momentum is None else now.copy_(momentum)
        optimizer.zero_grad()
        (torch.cuda.set_rng_state if self._cuda else torch.set_rng_state)(self._generator)


def momenta(module: "Classifier", optimizer: Optimizer) -> Tensor:
    """All momenta in one vector."""
    parameters = module.net.parameters()
    return torch.cat([optimizer.state[parameter]["momentum_buffer"].flatten() for parameter in parameters])
