"""What a captured iteration reads and writes, and a copy of what it changes."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from replicate.training.module import Classifier


class StaticBuffers:
    """What a graph reads and writes: tensors whose addresses do not change.

    Args:
        images: (k·b, c, h, w) of a chunk, channels_last.
        labels: (k·b,).
        length: k, batches in this chunk.
        max_batches: in the longest chunk.
    """

    def __init__(self, images: Tensor, labels: Tensor, length: int, max_batches: int) -> None:
        size = len(labels) // length
        # Batch by batch, channels last within each: a batch that is picked out has the layout that the net wants.
        self.images = images.new_empty(max_batches, size, *images.shape[2:], images.shape[1])
        self.labels = labels.new_empty(max_batches, size)
        self.index = torch.zeros(1, dtype=torch.int64, device=images.device)  # of the next batch
        self.losses = torch.zeros(max_batches, dtype=torch.float64, device=images.device)
        self.logits: Tensor | None = None  # (max_batches, b, classes), from the first iteration on

    def fill(self, images: Tensor, labels: Tensor) -> None:
        """Take over a chunk."""
        length = len(labels) // self.labels.shape[1]
        self.images[:length] = images.permute(0, 2, 3, 1).view(length, *self.images.shape[1:])  # k·b c h w -> k b h w c
        self.labels[:length] = labels.view(length, -1)
        self.rewind()

    def rewind(self) -> None:
        """Start with the first batch again."""
        self.index.zero_()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Pick out the next batch: images (b, c, h, w), labels (b,)."""
        images = self.images.index_select(0, self.index)[0].permute(0, 3, 1, 2)
        return images, self.labels.index_select(0, self.index)[0]

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        """Store the loss () and the logits (b, classes) of the batch, and go on to the next."""
        if self.logits is None:
            self.logits = logits.new_zeros(len(self.losses), *logits.shape)
        self.logits.index_copy_(0, self.index, logits.detach()[None])
        self.losses.index_copy_(0, self.index, loss.detach()[None].double())
        self.index += 1

    def correct(self, length: int) -> Tensor:
        """Count the right answers among the first batches."""
        assert self.logits is not None
        return (self.logits[:length].argmax(2) == self.labels[:length]).sum()


class Snapshot:
    """Copies of what iterations change, to restore it in place."""

    def __init__(self, module: Classifier, optimizer: Optimizer) -> None:
        self._cuda = module.device.type == "cuda"
        self._weights = [parameter.detach().clone() for parameter in module.net.parameters()]
        found = (optimizer.state[parameter].get("momentum_buffer") for parameter in module.net.parameters())
        self._momenta = [None if momentum is None else momentum.clone() for momentum in found]
        self._generator = torch.cuda.get_rng_state() if self._cuda else torch.get_rng_state()

    @torch.no_grad()
    def restore(self, module: Classifier, optimizer: Optimizer) -> None:
        """Restore it; momenta that did not exist yet become zero."""
        for parameter, weight, momentum in zip(module.net.parameters(), self._weights, self._momenta, strict=True):
            parameter.copy_(weight)
            now = optimizer.state[parameter].get("momentum_buffer")
            if now is not None:
                now.zero_() if momentum is None else now.copy_(momentum)
        optimizer.zero_grad()
        (torch.cuda.set_rng_state if self._cuda else torch.set_rng_state)(self._generator)
