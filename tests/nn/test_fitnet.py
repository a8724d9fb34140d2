"""FitNet-4 against the counts and the order of layers in the released code; FitNet-1; deeper nets."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from replicate.nn.activations import MAXOUT, RELU, Activation
from replicate.nn.fitnet import (
    FITNET1,
    FITNET4,
    FITNET4_BN_AFTER,
    FITNET4_BN_BEFORE,
    FITNET4_X2,
    FITNET4_X3,
    FITNET4_X5,
    Conv,
    Plan,
    build,
    deeper,
)

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


def test_fitnet1_has_its_published_size() -> None:
    net = build(FITNET1, MAXOUT)
    assert sum(parameter.numel() for parameter in net.parameters()) == 251_194
    convs = [layer.out_channels // 2 for layer in net if isinstance(layer, nn.Conv2d)]
    assert convs == [16, 16, 16, 32, 32, 32, 48, 48, 64]
    assert build(FITNET1, RELU)(IMAGE).shape == (1, 10)
    assert build(FITNET1, RELU).fc1.out_features == 500


@pytest.mark.parametrize(
    ("plan", "order"), [(FITNET4_BN_BEFORE, ["norm", "act"]), (FITNET4_BN_AFTER, ["act", "act_norm"])]
)
def test_batch_normalisation_before_or_after_the_activation(plan: Plan, order: list[str]) -> None:
    net = build(plan, MAXOUT, width=1 / 16)
    names = [name for name, _ in net.named_children() if "drop" not in name and "pool" not in name]
    layers = [*(f"conv{number}" for number in range(1, 18)), "fc1"]
    groups = [[layer, *(f"{layer}_{end}" for end in order)] for layer in layers]
    assert names == [name for group in groups[:-1] for name in group] + ["flatten", *groups[-1], "fc2"]
    norms = [layer for layer in net if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms[0].num_features == 2 * (2 if order[0] == "norm" else 1)  # of pieces, or of channels
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    for norm in norms:
        norm.register_forward_hook(lambda _, args, output: seen.append(output))
    assert net(x).shape == (4, 10)
    assert len(seen) == 18
    for output in seen:
        assert output.transpose(0, 1).flatten(1).mean(1).abs().max().item() < 1e-3


@pytest.mark.parametrize(("times", "plan"), [(2, FITNET4_X2), (3, FITNET4_X3), (5, FITNET4_X5)])
def test_deeper_nets_repeat_each_stage(times: int, plan: Plan) -> None:
    net = build(plan, RELU, width=1 / 16)
    names = [name for name, layer in net.named_children() if isinstance(layer, nn.Conv2d)]
    assert names == [f"conv{number}" for number in range(1, 17 * times + 1)]
    channels = [part.channels for part in plan if isinstance(part, Conv)]
    assert channels == [32, 32, 32, 48, 48] * times + [80] * 6 * times + [128] * 6 * times
    assert deeper(FITNET4, 1) == FITNET4
    kinds = [type(part) for part in plan if not isinstance(part, Conv)]
    assert kinds == [type(part) for part in FITNET4 if not isinstance(part, Conv)]
    assert net(IMAGE).shape == (1, 10)


def test_width_scales_channels_and_hidden_units() -> None:
    quarter = build(FITNET4, RELU, width=0.25)
    shapes = [tuple(layer.weight.shape[:2]) for layer in quarter if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [shapes[i] for i in (0, 3, 5, 11, 17, 18)] == [(8, 3), (12, 8), (20, 12), (32, 20), (125, 32), (10, 125)]
    assert build(FITNET4, RELU, width=0.001, classes=3)(IMAGE).shape == (1, 3)  # at least one channel
