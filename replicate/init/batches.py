"""Batches in the forms in which users have them, and how a batch is given to a model."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from replicate.init.report import LSUVError

# A batch is a tensor (n, …), a tuple of positional or a mapping of keyword arguments of the model, a list that starts
# with the input, or anything else.
Batches = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[], Any] | Iterable[Any]

ENDED = "the batches came to an end; give a tensor, a list or an endless iterator"


def is_single_batch(batches: Batches) -> bool:
    """Whether these are one batch: a tensor, tuple or mapping, or a list of tensors with the same first dimension.

    Raises:
        LSUVError: a list of three or more tensors of one shape may be either.
    """
    if not isinstance(batches, list):
        return isinstance(batches, (Tensor, tuple, Mapping))
    tensors = [part for part in batches if isinstance(part, Tensor) and part.ndim]
    if len(tensors) < 2 or len(tensors) < len(batches) or len({len(part) for part in tensors}) > 1:
        return False
    if len(tensors) > 2 and len({(part.shape, part.dtype) for part in tensors}) == 1:
        raise LSUVError(
            f"a list of {len(tensors)} tensors of one shape may be one batch or {len(tensors)} batches; "
            "give a tuple for one batch, and a list of tuples, [(x,) for x in batches], for several"
        )
    return True


def endless(batches: Batches) -> Iterator[Any]:
    """Yield batches without end: one again and again, those that a callable makes, or those of an iterable.

    Raises:
        LSUVError: the batches are of a wrong type, or come to an end although the iterable is started again.
    """
    _refuse_arrays(batches)
    if is_single_batch(batches):
        batches = [batches]
    if callable(batches):
        while True:
            try:
                batch = batches()
            except StopIteration:
                raise LSUVError(ENDED) from None
            yield batch
    if not isinstance(batches, Iterable) or isinstance(batches, (str, bytes)):
        raise LSUVError(f"batches are a tensor, a callable or an iterable, not {type(batches).__name__}")
    while True:
        batch = nothing = object()
        for batch in batches:
            _refuse_arrays(batch)
            yield batch
        if batch is nothing:
            raise LSUVError(ENDED)


def _refuse_arrays(batch: Any) -> None:
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (list, tuple)) else [batch]
    if any(type(part).__module__ == "numpy" for part in parts):
        raise LSUVError("the batch is a numpy array; convert it with torch.from_numpy")


def call_model(model: nn.Module, batch: Any) -> None:
    """Run a model on a batch.

    A mapping holds keyword arguments, a tuple positional ones. If the model takes fewer, as of (images, labels), it
    gets the first. Lists come from data loaders, and may hold labels: the model gets the first part if it takes no
    more, and all parts if it requires them. Anything else is the only argument.

    Raises:
        LSUVError: the model does not accept the batch, or could take a list in both ways.
    """
    if isinstance(batch, Mapping):
        args, kwargs = (), dict(batch)
    else:
        is_several = isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence)
        args, kwargs = tuple(batch) if is_several else (batch,), {}
    problem = _problem(model, args, kwargs)
    if len(args) > 1:
        takes_first = _problem(model, args[:1], {}) is None
        if problem is None and takes_first and isinstance(batch, list):
            raise LSUVError(
                f"the batch is a list of {len(args)}, and the model takes one argument or more; give a tuple if all "
                "are arguments, or forward=lambda model, batch: model(batch[0]) if only the first is"
            )
        if problem and takes_first:
            args, problem = args[:1], None
    if problem:
        hint = "pass forward=lambda model, batch: model(batch[0]) or similar"
        raise LSUVError(f"the model does not accept such a batch ({problem}); {hint}")
    model(*args, **kwargs)


def _problem(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Return why a model cannot be called with these arguments, as far as its signature tells."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    except ValueError:  # it has no signature
        pass
    return None
