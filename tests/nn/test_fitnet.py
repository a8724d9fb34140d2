"""FitNet-4 against the counts and the order of layers in the released code."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from replicate.nn.activations import MAXOUT, RELU, Activation
from replicate.nn.fitnet import FITNET4, build

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.mark.parametrize(
    ("activation", "parameters", "operations"),
    [(RELU, 1_276_806, 190_877_064), (MAXOUT, 2_742_102, 381_941_128)],
)
def test_size(activation: Activation, parameters: int, operations: int) -> None:
    net = build(FITNET4, activation)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    with FlopCounterMode(display=False) as counter:
        net(IMAGE)
    assert counter.get_total_flops() == 2 * operations  # a multiplication and an addition


def test_the_order_of_the_layers() -> None:
    net = build(FITNET4, RELU, dropout=0.3)
    kinds = {nn.Dropout: "D", nn.Conv2d: "C", nn.ReLU: "x", nn.MaxPool2d: "P", nn.Flatten: "f", nn.Linear: "L"}
    order = "".join(kinds[type(layer)] for layer in net)
    assert order == "D" + "Cx" * 5 + "P" + "D" + "Cx" * 6 + "P" + "D" + "Cx" * 6 + "P" + "D" + "f" + "Lx" + "D" + "L"
    assert [layer.p for layer in net if isinstance(layer, nn.Dropout)] == [0.3] * 5
    assert [layer.kernel_size for layer in net if isinstance(layer, nn.MaxPool2d)] == [2, 2, 8]


def test_width_scales_channels_and_hidden_units() -> None:
    quarter = build(FITNET4, RELU, width=0.25)
    shapes = [tuple(layer.weight.shape[:2]) for layer in quarter if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [shapes[i] for i in (0, 3, 5, 11, 17, 18)] == [(8, 3), (12, 8), (20, 12), (32, 20), (125, 32), (10, 125)]
    assert build(FITNET4, RELU, width=0.001, classes=3)(IMAGE).shape == (1, 3)  # at least one channel
