"""The tensors that a captured iteration works on: its buffers, its weights in half precision, and a saved state."""

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


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
        # Batch by batch, channels last within each: a single batch then has the layout that the net wants.
        self.images = images.new_empty(max_batches, size, *images.shape[2:], images.shape[1])
        self.labels = labels.new_empty(max_batches, size)
        self.index = torch.zeros(1, dtype=torch.int64, device=images.device)  # of the next batch
        self.losses = torch.zeros(max_batches, dtype=torch.float64, device=images.device)
        self.logits: Tensor | None = None  # (max_batches, b, classes), from the first iteration on

    def fill(self, images: Tensor, labels: Tensor) -> None:
        """Copy a chunk into the buffers, and start with its first batch."""
        length = len(labels) // self.labels.shape[1]
        self.images[:length] = images.permute(0, 2, 3, 1).view(length, *self.images.shape[1:])  # k·b c h w -> k b h w c
        self.labels[:length] = labels.view(length, -1)
        self.rewind()

    def rewind(self) -> None:
        """Start with the first batch again."""
        self.index.zero_()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return the next batch: images (b, c, h, w), labels (b,)."""
        images = self.images.index_select(0, self.index)[0].permute(0, 3, 1, 2)
        return images, self.labels.index_select(0, self.index)[0]

    def keep(self, loss: Tensor, logits: Tensor) -> None:
        """Store the loss () and the logits (b, classes) of the batch, and advance to the next."""
        if self.logits is None:
            self.logits = logits.new_zeros(len(self.losses), *logits.shape)
        self.logits.index_copy_(0, self.index, logits.detach()[None])
        self.losses.index_copy_(0, self.index, loss.detach()[None].double())
        self.index += 1

    def correct(self, length: int) -> Tensor:
        """Count the right answers in the first `length` batches."""
        assert self.logits is not None
        return (self.logits[:length].argmax(2) == self.labels[:length]).sum()


class HalfCopies:
    """A twin of a net whose convolutions and linear layers have their weights in half precision.

    Autocast casts each weight and each gradient by a kernel of its own in every iteration: 76 kernels for FitNet-4.
    Here one kernel refreshes all weights of the twin, and one copies all its gradients back to the net. The numbers are
    those of autocast, bit by bit: the same values are rounded at the same places. (The gradients of a weight that
    several layers share are added in half precision.)

    Args:
        net: in training mode; each of its weights gets a gradient. The twin shares everything that is not cast.
        dtype: of the copies.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        # The layers whose weights autocast casts
        layers = nn.ModuleList(module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear))
        self._weights: list[Tensor] = list(layers.parameters())
        self._copies: list[Tensor] = [nn.Parameter(weight.detach().to(dtype)) for weight in self._weights]
        self._gradients = [torch.empty_like(weight) for weight in self._weights]
        shared = {id(tensor): tensor for tensor in [*net.parameters(), *net.buffers()]}
        cast = {id(weight): half for weight, half in zip(self._weights, self._copies, strict=True)}
        self.net: nn.Module = copy.deepcopy(net, {**shared, **cast})

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the weights of the net to the twin, and clear the twin's gradients."""
        torch._foreach_copy_(self._copies, self._weights)
        for half in self._copies:
            half.grad = None

    @torch.no_grad()
    def return_gradients(self) -> None:
        """Copy the gradients of the twin to the net."""
        for weight, gradient in zip(self._weights, self._gradients, strict=True):
            weight.grad = gradient
        halves: list[Tensor] = [half.grad for half in self._copies]  # type: ignore[misc]  # none is None
        torch._foreach_copy_(self._gradients, halves)


class SavedState:
    """Copies of everything that iterations change, to restore it in place: weights, momenta and random numbers.

    Args:
        net: its parameters, and its buffers, such as batch normalisation's running statistics.
        optimizer: of the net; it already has its momenta.
    """

    def __init__(self, net: nn.Module, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        momenta = [optimizer.state[parameter]["momentum_buffer"] for parameter in net.parameters()]
        self._tensors = [tensor.detach() for tensor in (*net.parameters(), *net.buffers(), *momenta)]
        self._values = [tensor.clone() for tensor in self._tensors]
        self._random = torch.cuda if self._tensors[0].is_cuda else torch.random
        self._generator = self._random.get_rng_state()

    def restore(self) -> None:
        """Restore all of it, without gradients."""
        for tensor, value in zip(self._tensors, self._values, strict=True):
            tensor.copy_(value)
        self._optimizer.zero_grad()
        self._random.set_rng_state(self._generator)
