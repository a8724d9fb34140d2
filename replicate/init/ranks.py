"""The processes that hold copies of one model: one alone, or those of its DistributedDataParallel."""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from replicate.init.errors import LSUVError


class Moments(NamedTuple):
    """Number of values, their mean (used only to pool several processes' values) and their biased variance."""

    number: int
    mean: float
    variance: float


def moments(values: Tensor) -> Moments:
    """Take the biased variance over all values, in float32 at least: exactly 0 if they are equal, NaN if not finite."""
    values = values.detach()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    if not values.numel():
        return Moments(0, 0.0, math.nan)
    low, high = map(float, torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        return Moments(values.numel(), math.nan, math.nan)
    if low == high:
        return Moments(values.numel(), low, 0.0)
    variance = float(values.var(correction=0))
    if not 1e-30 < variance < math.inf:  # squares outside float32's range
        variance = float(values.cpu().double().var(correction=0))
    return Moments(values.numel(), math.nan, variance)


class Ranks:
    """Pools measurements over processes, and gives all of them the first one's weights.

    Args:
        group: their process group; None: this process alone.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    def pool(self, name: str, values: list[Tensor] | None) -> list[Moments] | None:
        """Take the moments of each piece's values over all processes: the same numbers in each, bit for bit.

        Args:
            name: of the layer, which must be the same everywhere.
            values: of each piece in this process; None: its forward pass did not reach the layer.

        Returns:
            None if no process reached the layer.

        Raises:
            LSUVError: the processes measure different layers.
        """
        found = None if values is None else [moments(piece) for piece in values]
        if self.group is None:
            return found
        if values is not None and found is not None:
            found = [m._replace(mean=float(v.double().mean())) for m, v in zip(found, values, strict=True) if m.number]
        gathered: list[tuple[str, list[Moments] | None]] = [(name, None)] * dist.get_world_size(self.group)
        dist.all_gather_object(gathered, (name, found), group=self.group)
        if names := {other for other, _ in gathered} - {name}:
            raise LSUVError(f"one process measures layer {name!r} while others measure {sorted(names)}")
        reached = [theirs for _, theirs in gathered if theirs]
        return [_pooled(pieces) for pieces in zip(*reached, strict=True)] if reached else None

    def agreed(self, names: list[str]) -> list[str]:
        """Give the names that the group's first process has."""
        said = [names]
        if self.group is not None:
            dist.broadcast_object_list(said, src=dist.get_global_rank(self.group, 0), group=self.group)
        return said[0]

    def spread_(self, tensors: list[Tensor]) -> None:
        """Overwrite tensors in place by those of the group's first process."""
        if self.group is None:
            return
        for tensor in tensors:
            same = tensor.detach().contiguous()
            dist.broadcast(same, src=dist.get_global_rank(self.group, 0), group=self.group)
            tensor.detach().copy_(same)


def _pooled(parts: tuple[Moments, ...]) -> Moments:
    number = sum(part.number for part in parts)
    mean = sum(part.number * part.mean for part in parts) / number
    variance = sum(part.number * (part.variance + (part.mean - mean) ** 2) for part in parts) / number
    return Moments(number, mean, variance)


def unwrapped(model: nn.Module) -> tuple[nn.Module, Ranks]:
    """Take a model out of torch.compile, DataParallel and DistributedDataParallel; say which processes share it."""
    ranks = Ranks()
    while True:
        if isinstance(model, DistributedDataParallel):
            ranks = Ranks(model.process_group)
            model = model.module
        elif isinstance(model, DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model, ranks
