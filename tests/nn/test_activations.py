"""Activations against their formulas, and the registry against the names of a Run."""

import math

import pytest
import torch

from replicate.nn.activations import ACTIVATIONS, Maxout
from replicate.run import ACTIVATIONS as NAMES


def test_the_registry_holds_the_names_of_a_run() -> None:
    assert tuple(ACTIVATIONS) == NAMES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", [0.0, 0.0, 3.0]),
        ("vlrelu", [-1.0, 0.0, 3.0]),  # slope 1/3
        ("tanh", [math.tanh(-3), 0.0, math.tanh(3)]),
        ("sigmoid", [1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-3))]),
    ],
)
def test_values(name: str, expected: list[float]) -> None:
    activation = ACTIVATIONS[name]
    assert (activation.conv_pieces, activation.hidden_pieces) == (1, 1)
    torch.testing.assert_close(activation.module(1)(torch.tensor([-3.0, 0.0, 3.0])), torch.tensor(expected))


def test_maxout_takes_the_largest_piece_of_each_unit() -> None:
    # Two units of three pieces: outputs 0, 1, 2 belong to the first, 3, 4, 5 to the second.
    x = torch.tensor([[1.0, 5.0, 2.0, -7.0, -8.0, -9.0]])
    assert Maxout(3)(x).tolist() == [[5.0, -7.0]]
    maps = torch.randn(2, 6, 4, 5, generator=torch.Generator().manual_seed(0))
    by_hand = torch.maximum(maps[:, [0, 2, 4]], maps[:, [1, 3, 5]])
    assert torch.equal(Maxout(2)(maps), by_hand)


def test_maxout_has_two_pieces_in_convolutions_and_five_in_the_hidden_layer() -> None:
    assert (ACTIVATIONS["maxout"].conv_pieces, ACTIVATIONS["maxout"].hidden_pieces) == (2, 5)


def test_only_vlrelu_has_a_slope() -> None:
    assert {name: act.negative_slope for name, act in ACTIVATIONS.items() if act.negative_slope} == {"vlrelu": 1 / 3}


@pytest.mark.parametrize("pieces", [2, 5])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maxout_has_the_gradient_of_amax_and_keeps_the_layout(pieces: int, layout: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4 * pieces, 6, 5, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    weight = torch.randn(3, 4, 6, 5, generator=generator, dtype=torch.float64)
    best = Maxout(pieces)(x)
    (ours,) = torch.autograd.grad((best * weight).sum(), x)
    reference = x.unflatten(1, (-1, pieces)).amax(2)
    (theirs,) = torch.autograd.grad((reference * weight).sum(), x)
    assert torch.equal(best, reference)
    assert torch.equal(ours, theirs)
    assert best.is_contiguous(memory_format=layout)
    assert ours.is_contiguous(memory_format=layout)


def test_maxout_gives_a_tie_to_the_first_piece() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0, 0.0, 2.0, 2.0]], requires_grad=True)
    Maxout(3)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 0, 0, 1, 0]]


def test_maxout_passes_a_nan_on() -> None:
    assert Maxout(2)(torch.tensor([[float("nan"), 1.0, 1.0, float("nan")]])).isnan().all()
