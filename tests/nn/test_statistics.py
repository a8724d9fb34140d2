"""Statistics of activations against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from replicate.nn.activations import Maxout
from replicate.nn.statistics import activation_statistics


def test_relu() -> None:
    x = torch.tensor([[-1.0, 2.0, -3.0, 0.0], [-5.0, 0.0, 6.0, 8.0]])
    found = activation_statistics(nn.ReLU(), x)  # outputs 0 2 0 0, 0 0 6 8: mean 2, mean square 104/8 = 13
    assert found == pytest.approx((2.0, 3.0, 5 / 8, 1 / 4))


def test_a_unit_of_a_convolution_is_dead_only_if_it_is_at_every_position_of_every_image() -> None:
    x = -torch.ones(2, 3, 4, 5)
    x[1, 0, 2, 3] = 7.0
    found = activation_statistics(nn.ReLU(), x)
    assert found.saturated == pytest.approx(119 / 120)
    assert found.dead == pytest.approx(2 / 3)


def test_tanh_saturates_beyond_0_975_and_is_dead_where_float32_rounds_it_to_1() -> None:
    edge = math.atanh(math.sqrt(0.95))  # 1 - tanh² = 0.05
    x = torch.tensor([[0.0, edge - 0.01, edge + 0.01, -20.0]])
    mean = (math.tanh(edge - 0.01) + math.tanh(edge + 0.01) - 1) / 4
    found = activation_statistics(nn.Tanh(), x)
    assert (found.mean, found.saturated, found.dead) == pytest.approx((mean, 2 / 4, 1 / 4))


def test_sigmoid_saturates_where_its_slope_is_0_05() -> None:
    edge = math.log((1 + math.sqrt(0.8)) / (1 - math.sqrt(0.8)))  # s (1 - s) = 0.05 at s = (1 + √0.8) / 2
    found = activation_statistics(nn.Sigmoid(), torch.tensor([[0.0, edge - 0.01, edge + 0.01, -edge - 0.01]]))
    assert (found.saturated, found.dead) == (2 / 4, 0.0)


def test_maxout_is_never_saturated_and_its_pieces_can_be_dead() -> None:
    # Two units of two pieces: the second piece of the first unit is never the largest.
    x = torch.tensor([[3.0, 1.0, 5.0, 2.0], [4.0, -1.0, 0.0, 6.0]])
    found = activation_statistics(Maxout(2), x)  # outputs 3 5, 4 6
    assert found == pytest.approx((4.5, math.sqrt(1.25), 0.0, 1 / 4))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("module", [nn.PReLU(3), nn.ReLU(inplace=True)])
def test_it_changes_nothing(module: nn.Module, mode: type) -> None:
    with mode():
        x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
        before = x.clone()
        hook = module.register_forward_hook(lambda *_: pytest.fail("the hook was called"))
        share = (x <= 0).float().mean().item() if isinstance(module, nn.ReLU) else 0.0
        assert activation_statistics(module, x).saturated == pytest.approx(share)
        hook.remove()
        assert torch.equal(x, before)
        assert not x.requires_grad
        assert all(parameter.grad is None for parameter in module.parameters())


def test_it_measures_bf16_in_float32() -> None:
    x = torch.ones(1, 1000, dtype=torch.bfloat16)
    x[0, 0] = 2.0
    assert activation_statistics(nn.ReLU(), x).mean == pytest.approx(1.001)
