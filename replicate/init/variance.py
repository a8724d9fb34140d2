"""The variance of many values, as far as their type can tell it."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Number of values, and their biased variance."""

    number: int
    variance: float


def moments(values: Tensor) -> Moments:
    """Take the biased variance over all values, in float32 at least: exactly 0 if they are equal, NaN if not finite."""
    values = values.detach()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    if not values.numel():
        return Moments(0, math.nan)
    low, high = map(float, torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        return Moments(values.numel(), math.nan)
    if low == high:
        return Moments(values.numel(), 0.0)
    variance = float(values.var(correction=0))
    if not 1e-30 < variance < math.inf:  # squares outside float32's range
        variance = float(values.cpu().double().var(correction=0))
    return Moments(values.numel(), variance)
