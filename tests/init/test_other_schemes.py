"""Each further initialisation against the formula of its paper."""

import math

import pytest
import torch
from init.zoo import generator

from replicate.init.schemes import Scheme
from replicate.names import INITS, resolve

OTHERS: dict[str, Scheme] = {name: resolve(path) for name, path in INITS.items() if "other_schemes" in path}
SHAPE, SLOPE = (40, 30, 3, 3), 0.5  # fan_in 270, fan_out 360
HE = 2 / (1 + SLOPE**2)
# name -> the variance of a weight, and whether it is uniform
DRAWN = {
    "small_gaussian": (1e-4, False),
    "large_gaussian": (0.25, False),
    "torch_default": (1 / (3 * 270), True),
    "xavier_uniform": (2 / (270 + 360), True),
    "xavier_normal": (2 / (270 + 360), False),
    "kaiming_uniform_fan_in": (HE / 270, True),
    "kaiming_normal_fan_in": (HE / 270, False),
    "kaiming_uniform_fan_out": (HE / 360, True),
    "kaiming_normal_fan_out": (HE / 360, False),
    "random_walk": (2 * math.exp(2.4 / 267.6) / 270, False),
}


def test_each_is_tested() -> None:
    assert {*DRAWN, "zeros", "delta_orthogonal"} == OTHERS.keys()


@pytest.mark.parametrize("name", DRAWN)
def test_independent_weights(name: str) -> None:
    variance, uniform = DRAWN[name]
    weight = OTHERS[name](SHAPE, generator(), SLOPE)
    assert (weight.shape, weight.dtype) == (SHAPE, torch.float32)
    values = weight.flatten().double() / math.sqrt(variance)
    assert values.mean().item() == pytest.approx(0, abs=4 / math.sqrt(len(values)))
    assert values.square().mean().item() == pytest.approx(1, rel=4 * math.sqrt(2 / len(values)))
    # A uniform variable never exceeds √3 standard deviations; one in twelve normal variables does.
    assert (values.abs().max().item() <= math.sqrt(3) + 1e-6) == uniform


def test_the_factor_of_the_random_walk_in_narrow_layers() -> None:
    for n, gain in ((3, math.sqrt(2) * math.exp(1.2 / 3.6)), (10, math.sqrt(2) * math.exp(1.2 / 7.6))):
        weight = OTHERS["random_walk"]((20_000, n), generator(), 0.0)
        assert weight.std().item() == pytest.approx(gain / math.sqrt(n), rel=0.02)


def test_zeros() -> None:
    assert not OTHERS["zeros"](SHAPE, generator(), SLOPE).any()


@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (5, 8, 3, 3), (6, 4, 5), (4, 6), (4, 6, 2, 2)])
def test_delta_orthogonal(shape: tuple[int, ...]) -> None:
    weight = OTHERS["delta_orthogonal"](shape, generator(), SLOPE)
    flat = weight.flatten(2) if len(shape) > 2 else weight[..., None]
    there = flat.abs().sum((0, 1)).nonzero().flatten().tolist()
    assert there == [{9: 4, 5: 2, 1: 0, 4: 3}[flat.shape[2]]]  # the centre of the kernel
    matrix = flat[..., there[0]]
    gram = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(min(shape[:2])), atol=1e-5, rtol=0)


def test_a_delta_orthogonal_convolution_keeps_the_norm_of_its_input() -> None:
    weight = OTHERS["delta_orthogonal"]((8, 5, 3, 3), generator(), SLOPE)
    x = torch.randn(2, 5, 6, 6, generator=generator(1))
    y = torch.nn.functional.conv2d(x, weight, padding=1)
    assert y.norm().item() == pytest.approx(x.norm().item(), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "zeros"])
def test_draws_come_only_from_the_generator(name: str) -> None:
    scheme = OTHERS[name]
    before = torch.get_rng_state()
    assert torch.equal(scheme((6, 5), generator(3), SLOPE), scheme((6, 5), generator(3), SLOPE))
    assert not torch.equal(scheme((6, 5), generator(3), SLOPE), scheme((6, 5), generator(4), SLOPE))
    assert torch.equal(torch.get_rng_state(), before)
