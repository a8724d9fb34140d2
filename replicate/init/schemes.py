"""Initialisations that look at no data: each draws the weights of one layer from their shape alone."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

# (shape of one linear map: (out, in, …), generator, negative slope of the activation) -> its weight
Scheme = Callable[[tuple[int, ...], Generator | None, float], Tensor]


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs of one output: in·k·k for a weight (out, in, k, k)."""
    return math.prod(shape[1:])


def _where(generator: Generator | None) -> dict[str, Any]:
    """Float32 on the generator's device, without one on the CPU: torch's default dtype and device play no part."""
    return {"device": "cpu" if generator is None else generator.device, "dtype": torch.float32}


def orthonormal(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """OrthoNorm: the orthonormal factor of a standard normal matrix (out, in·k·k).

    Its rows are orthonormal where out <= in·k·k, else its columns. Source: released code, tools/extra/lsuv_init.py.
    The slope is not used.
    """
    normal = torch.randn(shape[0], fan_in(shape), generator=generator, **_where(generator))
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    factor: Tensor = left if left.shape == normal.shape else right
    return factor.reshape(shape)  # out in·k·k -> out in k k


def orthonormal_msra(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """OrthoNorm times √(2 / (1 + slope²)): √2 for ReLU, 1.342 for VLReLU.

    Source: a comment in the released code. For activations that are no rectifiers the slope is 0: our choice.
    """
    return orthonormal(shape, generator) * math.sqrt(2 / (1 + negative_slope**2))


def xavier(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Xavier as in Caffe: uniform on ±√(3 / fan_in). torch's averages fan_in and fan_out; this one does not.

    Source: released code, include/caffe/filler.hpp. The slope is not used.
    """
    bound = math.sqrt(3 / fan_in(shape))
    return torch.empty(shape, **_where(generator)).uniform_(-bound, bound, generator=generator)


def msra(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """MSRA as in Caffe: normal with standard deviation √(2 / fan_in), with no correction for the slope.

    Source: released code, include/caffe/filler.hpp.
    """
    return torch.empty(shape, **_where(generator)).normal_(0, math.sqrt(2 / fan_in(shape)), generator=generator)


SCHEMES: dict[str, Scheme] = {
    "orthonormal": orthonormal,
    "orthonormal_msra": orthonormal_msra,
    "xavier": xavier,
    "msra": msra,
}
