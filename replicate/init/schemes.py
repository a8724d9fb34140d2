"""Initialisations: each draws the weights of a layer from their shape only."""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Generator, Tensor, nn

from replicate.errors import unknown
from replicate.init.layers import WeightLayer
from replicate.init.model_inits import takes_model
from replicate.init.report import LSUVError
from replicate.names import INITS, resolve

# (shape of one linear map: (out, in, …), generator, negative slope of the activation) -> its weight
Scheme = Callable[[tuple[int, ...], Generator | None, float], Tensor]


def fan_in(shape: tuple[int, ...]) -> int:
    """Return the number of inputs of one output: in·k·k for a weight (out, in, k, k)."""
    return math.prod(shape[1:])


def empty(shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Make a float32 tensor on the generator's device, or on the CPU: torch's default dtype and device have no effect.

    Its values are not set.
    """
    return torch.empty(shape, device="cpu" if generator is None else generator.device, dtype=torch.float32)


def orthonormal(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """OrthoNorm: the orthonormal factor of a standard normal matrix (out, in·k·k).

    Its rows are orthonormal if out <= in·k·k, else its columns. Source: released code, tools/extra/lsuv_init.py.
    The slope is not used.
    """
    normal = empty((shape[0], fan_in(shape)), generator).normal_(generator=generator)
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return torch.reshape(left if left.shape == normal.shape else right, shape)  # out in·k·k -> out in k k


def haar_orthonormal(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Orthonormal rows or columns, drawn from the uniform distribution by a QR decomposition.

    It is much faster than `orthonormal`, in which LAPACK chooses the signs, so that the distribution is not uniform.
    The slope is not used.
    """
    return nn.init.orthogonal_(empty(shape, generator), generator=generator)


def orthonormal_msra(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """OrthoNorm times √(2 / (1 + slope²)): √2 for ReLU, 1.342 for VLReLU.

    Source: a comment in the released code. For activations that are not rectifiers the slope is 0: our choice.
    """
    return orthonormal(shape, generator) * math.sqrt(2 / (1 + negative_slope**2))


def xavier(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Xavier as in Caffe: uniform on ±√(3 / fan_in). torch's version averages fan_in and fan_out.

    Source: released code, include/caffe/filler.hpp. The slope is not used.
    """
    bound = math.sqrt(3 / fan_in(shape))
    return empty(shape, generator).uniform_(-bound, bound, generator=generator)


def msra(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """MSRA as in Caffe: normal with standard deviation √(2 / fan_in), without correction for the slope.

    Source: released code, include/caffe/filler.hpp.
    """
    return empty(shape, generator).normal_(0, math.sqrt(2 / fan_in(shape)), generator=generator)


def starting_scheme(pre_init: str | None, argument: str = "pre_init") -> Scheme | None:
    """Return the scheme of the weights that LSUV starts with for any model; None: it keeps the present ones.

    Raises:
        LSUVError: there is no such scheme.
    """
    if pre_init is None:
        return None
    choices = [name for name, path in INITS.items() if name != "lsuv" and not takes_model(resolve(path))]
    if pre_init not in choices:
        raise LSUVError(str(unknown(argument, pre_init, choices)))
    return haar_orthonormal if pre_init == "orthonormal" else cast("Scheme", resolve(INITS[pre_init]))


def draw_(layer: WeightLayer, scheme: Scheme, generator: Generator | None, negative_slope: float = 0.0) -> None:
    """Draw the weights of a layer by a scheme, each piece and each group separately, and set its bias to zero."""
    if generator is None and layer.weight.is_cuda:
        generator = torch.cuda.default_generators[layer.weight.device.index]
    for piece in range(layer.pieces):
        for block in layer.blocks(piece):
            outs, ins = block.shape[: layer.layout.outs], block.shape[layer.layout.outs :]
            block.copy_(scheme((math.prod(outs), *ins), generator, negative_slope).view_as(block))
        for bias in layer.biases(piece):
            bias.zero_()
    layer.renew_magnitude()
