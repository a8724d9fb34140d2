"""Further initialisations that look only at a layer's shape, for comparison with those of the paper.

Constants and corners on which their papers are silent are our choice, and are said to be.
"""

import math

from torch import Generator, Tensor, nn

from replicate.init.schemes import empty, fan_in, haar_orthonormal

SMALL, LARGE = 0.01, 0.5  # standard deviations: our choice


def zeros(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """All weights zero. If the activation is 0 at 0, only the bias of the last layer learns. The slope is not used."""
    return empty(shape, generator).zero_()


def small_gaussian(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Normal with standard deviation 0.01, as in AlexNet (Krizhevsky et al. 2012). The slope is not used."""
    return empty(shape, generator).normal_(0, SMALL, generator=generator)


def large_gaussian(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Normal with standard deviation 0.5. The slope is not used."""
    return empty(shape, generator).normal_(0, LARGE, generator=generator)


def xavier_uniform(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Uniform on ±√(6 / (fan_in + fan_out)): torch's, and the paper's own (Glorot and Bengio 2010).

    The slope is not used. `xavier` is Caffe's, with fan_in only.
    """
    return nn.init.xavier_uniform_(empty(shape, generator), generator=generator)


def xavier_normal(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Normal with standard deviation √(2 / (fan_in + fan_out)), as `xavier_uniform`."""
    return nn.init.xavier_normal_(empty(shape, generator), generator=generator)


def kaiming_uniform_fan_in(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Uniform on ±√(6 / ((1 + slope²) fan_in)): torch's (He et al. 2015). `msra` is Caffe's, without the slope."""
    return nn.init.kaiming_uniform_(empty(shape, generator), a=negative_slope, generator=generator)


def kaiming_normal_fan_in(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Normal with standard deviation √(2 / ((1 + slope²) fan_in)), as `kaiming_uniform_fan_in`."""
    return nn.init.kaiming_normal_(empty(shape, generator), a=negative_slope, generator=generator)


def kaiming_uniform_fan_out(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """As `kaiming_uniform_fan_in`, with fan_out, which keeps the size of the gradients."""
    return nn.init.kaiming_uniform_(empty(shape, generator), a=negative_slope, mode="fan_out", generator=generator)


def kaiming_normal_fan_out(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """As `kaiming_normal_fan_in`, with fan_out, which keeps the size of the gradients."""
    return nn.init.kaiming_normal_(empty(shape, generator), a=negative_slope, mode="fan_out", generator=generator)


def torch_default(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Uniform on ±1 / √fan_in: what torch.nn.Linear and Conv2d draw. (Their biases are not zero, as here.)

    The slope is not used.
    """
    return nn.init.kaiming_uniform_(empty(shape, generator), a=math.sqrt(5), generator=generator)


def delta_orthogonal(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Orthonormal at the centre of the kernel, zero elsewhere (Xiao et al. 2018).

    Their convolutions have no fewer outputs than inputs. With fewer, the rows are orthonormal instead: our choice. The
    slope is not used.
    """
    weight = empty(shape, generator).zero_()
    centre = weight
    for size in shape[2:]:
        centre = centre.select(2, size // 2)
    centre.copy_(haar_orthonormal(shape[:2], generator))
    return weight


def random_walk(shape: tuple[int, ...], generator: Generator | None, negative_slope: float = 0.0) -> Tensor:
    """Normal with standard deviation g / √N and g = √2 exp(1.2 / (max(N, 6) - 2.4)) (Sussillo and Abbott 2014).

    The factor keeps the logarithm of the gradients' size from drifting through ReLU layers of width N. N is fan_in, and
    all activations have the factor of ReLU: our choice. The slope is not used.
    """
    n = fan_in(shape)
    gain = math.sqrt(2) * math.exp(1.2 / (max(n, 6) - 2.4))
    return empty(shape, generator).normal_(0, gain / math.sqrt(n), generator=generator)
