"""Where tensors lie in memory: which share it, which overlap, and which part of a parameter a view is."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

Place = tuple[int, tuple[int, ...], tuple[int, ...]]


def address(tensor: Tensor) -> int:
    """Return the address of the memory that a tensor shares with its views; 0 if it has none, as inside torch.vmap."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def place(tensor: Tensor) -> Place:
    """Return where a tensor lies in its memory: offset, shape and strides."""
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def extent(tensor: Tensor) -> range:
    """Return the positions in its memory between which a tensor lies."""
    start = int(tensor.storage_offset())
    if tensor.numel() == 0:
        return range(start, start)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(start, start + last + 1)


def is_inside(view: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor lies between the first and the last value of another one in the same memory."""
    inner, outer = extent(view), extent(tensor)
    return outer.start <= inner.start and inner.stop <= outer.stop


def without_repeats(tensor: Tensor) -> Tensor:
    """View of an expanded tensor that holds each value once."""
    for axis, stride in enumerate(tensor.stride() if address(tensor) else ()):
        if stride == 0:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether several values of a tensor may be one in memory, as in sliding windows."""
    span = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < span:
            return True
        span += stride * (size - 1)
    return False


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors in the same memory have values in common."""
    first, second = extent(one), extent(other)
    if first.stop <= second.start or second.stop <= first.start:
        return False
    start = min(first.start, second.start)
    seen = torch.zeros(max(first.stop, second.stop) - start, dtype=torch.bool)
    one, other = without_repeats(one), without_repeats(other)
    seen.as_strided(one.shape, one.stride(), first.start - start).fill_(True)
    return bool(seen.as_strided(other.shape, other.stride(), second.start - start).any())


class Parameters:
    """The parameters and buffers of a model by their place in memory.

    Parameters that share values in memory, such as one and its transposed view, count as one: the first of them.

    Attributes:
        first: of each parameter: the first one with which it shares values, or itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self.first: dict[nn.Parameter, nn.Parameter] = {}
        self._at_address: dict[int, list[nn.Parameter]] = {}
        for parameter in model.parameters():
            at_address = self._at_address.setdefault(address(parameter), [])
            sharing = (other for other in at_address if address(parameter) and overlap(parameter, other))
            other = next(sharing, None)
            self.first[parameter] = parameter if other is None else self.first[other]
            at_address.append(parameter)
        self._buffers = {address(buffer) for buffer in model.buffers()} - {0}

    def find(self, tensor: Tensor) -> nn.Parameter | None:
        """Return the parameter that a tensor is, or of which it is a view."""
        if address(tensor) == 0:
            return tensor if isinstance(tensor, nn.Parameter) and tensor in self.first else None
        candidates = [one for one in self._at_address.get(address(tensor), ()) if is_inside(tensor, one)]
        if len(candidates) > 1:  # of parameters that alternate in memory, only one has values of the tensor
            candidates = [one for one in candidates if overlap(tensor, one)]
        return self.first[candidates[0]] if candidates else None

    def sharing(self, parameters: Collection[nn.Parameter]) -> set[nn.Parameter]:
        """Return all parameters of the model that share values with one of these, themselves included."""
        return {one for one, first in self.first.items() if first in parameters}

    def is_buffer(self, tensor: Tensor) -> bool:
        """Whether a tensor is a buffer of the model, or a view of one."""
        return address(tensor) in self._buffers


def slice_name(parameter: nn.Parameter, view: Tensor) -> str:
    """Write where a view lies in its parameter, as far as it holds whole rows: [3] or [64:128], else its offset."""
    row = parameter.numel() // len(parameter)
    start = extent(view).start - extent(parameter).start
    first, rest = divmod(start, row)
    if rest or view.numel() % row or not parameter.is_contiguous() or len(extent(view)) != view.numel():
        return f"[{start}…]"
    return f"[{first}]" if view.ndim < parameter.ndim else f"[{first}:{first + view.numel() // row}]"
