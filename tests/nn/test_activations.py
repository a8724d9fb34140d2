"""Activations against their formulas."""

import math

import pytest
import torch

from replicate.names import ACTIVATIONS, resolve
from replicate.nn.activations import Maxout


@pytest.mark.parametrize(
    ("name", "slope", "expected"),
    [
        ("relu", 0, [0.0, 0.0, 3.0]),
        ("vlrelu", 1 / 3, [-1.0, 0.0, 3.0]),
        ("tanh", 0, [math.tanh(-3), 0.0, math.tanh(3)]),
        ("sigmoid", 0, [1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-3))]),
        ("leaky_relu", 0.01, [-0.03, 0.0, 3.0]),
        ("leaky_relu_0.1", 0.1, [-0.3, 0.0, 3.0]),
        ("prelu", 0.25, [-0.75, 0.0, 3.0]),
        ("elu", 0, [math.expm1(-3), 0.0, 3.0]),
        # the two constants of Klambauer et al. 2017
        ("selu", 0, [1.0507009873554805 * 1.6732632423543772 * math.expm1(-3), 0.0, 1.0507009873554805 * 3]),
        ("silu", 0, [-3 / (1 + math.exp(3)), 0.0, 3 / (1 + math.exp(-3))]),
        ("gelu", 0, [-1.5 * math.erfc(3 / math.sqrt(2)), 0.0, 1.5 * (1 + math.erf(3 / math.sqrt(2)))]),
    ],
)
def test_values(name: str, slope: float, expected: list[float]) -> None:
    activation = resolve(ACTIVATIONS[name])
    torch.testing.assert_close(activation.module(1)(torch.tensor([-3.0, 0.0, 3.0])), torch.tensor(expected))
    assert (activation.conv_pieces, activation.hidden_pieces, activation.negative_slope) == (1, 1, slope)


@pytest.mark.parametrize("pieces", [2, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maxout_has_the_gradient_of_amax_and_keeps_the_layout(pieces: int, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4 * pieces, 6, 5, generator=generator).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(3, 4, 6, 5, generator=generator)
    best, reference = Maxout(pieces)(x), x.unflatten(1, (-1, pieces)).amax(2)
    (ours,), (theirs,) = (torch.autograd.grad((one * weight).sum(), x, retain_graph=True) for one in (best, reference))
    assert torch.equal(best, reference)
    assert torch.equal(ours, theirs)
    assert best.is_contiguous(memory_format=layout)
    assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("pieces", [2, 5])
def test_the_gradient_of_maxout_can_be_differentiated(pieces: int) -> None:
    x = torch.randn(3, 4 * pieces, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: Maxout(pieces)(x).square(), x)


def test_maxout_gives_a_tie_to_the_first_piece() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0, 0.0, 2.0, 2.0]], requires_grad=True)
    Maxout(3)(x).sum().backward()
    assert x.grad.tolist() == [[1, 0, 0, 0, 1, 0]]


def test_compiled_maxout_is_the_same_and_both_pass_nan_on() -> None:
    x = torch.tensor([[float("nan"), 1.0, 1.0, float("nan"), 1.0, 2.0]])
    compiled = torch.compile(Maxout(2), backend="eager", fullgraph=True)
    for maxout in (Maxout(2), compiled):
        torch.testing.assert_close(maxout(x), torch.tensor([[math.nan, math.nan, 2.0]]), equal_nan=True)
