"""Batches for a model, one for each forward pass, and the call that runs the model on one."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from replicate.init.errors import LSUVError

# A tensor (n, …); a tuple of positional arguments or a mapping of keyword arguments of the model; or anything else
Batch = Any
Batches = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[], Batch] | Iterable[Batch]
Forward = Callable[[nn.Module, Batch], object]


class Feed:
    """Runs a model on the next batch each time it is called.

    Tensors are copied to the model's device first, so that a model that works in place spoils no batch.

    Args:
        model: the model to run, bare of its wrappers unless `forward` is given.
        batches: a tensor, a tuple or a mapping is one batch, the same each time. A callable makes a batch each time. An
            iterable, such as a list or a DataLoader, gives a batch each time; when it ends it is started again.
        forward: what to do with model and batch; None: tuples and lists are positional arguments, mappings keyword
            arguments, anything else is the only argument.

    Attributes:
        fixed: whether it is the same batch each time.
        passes: how many forward passes were begun.
    """

    def __init__(self, model: nn.Module, batches: Batches, forward: Forward | None = None) -> None:
        self.model = model
        self.forward = forward
        self.fixed = isinstance(batches, (Tensor, tuple, Mapping))
        self.passes = 0
        devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
        self._device = devices.pop() if len(devices) == 1 else None
        self._batches = _endless(batches)

    def __call__(self) -> None:
        """Run one forward pass on the next batch.

        Raises:
            LSUVError: there is no further batch, or the model does not take it.
        """
        batch = self._copied(next(self._batches))
        self.passes += 1
        if self.forward is not None:
            self.forward(self.model, batch)
            return
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        match batch:
            case tuple() | list():
                args = tuple(batch)
            case Mapping():
                kwargs = dict(batch)
            case _:
                args = (batch,)
        if self.passes == 1:
            self._check(args, kwargs)
        self.model(*args, **kwargs)

    def _check(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Tell a batch of another form than the model's arguments from errors inside the model."""
        try:
            inspect.signature(self.model.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise LSUVError(
                f"the model does not take such a batch ({error}); say how by "
                "forward=lambda model, batch: model(batch[0]) or the like"
            ) from error

    def _copied(self, batch: Batch) -> Batch:
        match batch:
            case Tensor():
                return batch.to(self._device or batch.device, copy=True).requires_grad_(batch.requires_grad)
            case Mapping():
                return {key: self._copied(value) for key, value in batch.items()}
            case list():
                return [self._copied(value) for value in batch]
            case tuple():
                values = [self._copied(value) for value in batch]
                return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
        return batch


def _endless(batches: Batches) -> Iterator[Batch]:
    if isinstance(batches, (Tensor, tuple, Mapping)):
        yield from itertools.repeat(batches)
    if callable(batches):
        while True:
            yield batches()
    if not isinstance(batches, Iterable):
        raise LSUVError(f"batches are a tensor, a callable or an iterable, not {type(batches).__name__}")
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise LSUVError("the batches came to an end; give a tensor, a list or an endless iterator")
