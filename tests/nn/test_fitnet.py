"""FitNet-4 against the counts and the order of layers in the released code, and the other plans."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from replicate.init import lsuv_
from replicate.nn.activations import MAXOUT, RELU, TANH, Activation
from replicate.nn.fitnet import (
    FITNET1,
    FITNET4,
    FITNET4_BN_AFTER,
    FITNET4_BN_BEFORE,
    FITNET4_X2,
    FITNET4_X3,
    FITNET4_X5,
    FITRESNET4,
    MNIST_FITNET,
    Conv,
    Input,
    Plan,
    Pool,
    build,
    deeper,
    residual,
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


@pytest.mark.parametrize(("activation", "function"), [(MAXOUT, None), (RELU, F.relu), (TANH, torch.tanh)])
def test_fitresnet4_against_a_forward_pass_by_hand(activation: Activation, function: Callable | None) -> None:
    net = build(FITRESNET4, activation, width=0.125)
    x = images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def act(z: Tensor, pieces: int) -> Tensor:
        return z.unflatten(1, (-1, pieces)).amax(2) if function is None else function(z)

    def conv(x: Tensor, number: int) -> Tensor:
        layer = net.get_submodule(f"conv{number}")
        return act(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)

    for numbers, size in (([1, (2, 3), 4, 5], 2), ([6, (7, 8), (9, 10), 11], 2), ([12, (13, 14), (15, 16), 17], 8)):
        for one in numbers:
            x = conv(x, one) if isinstance(one, int) else x + conv(conv(x, one[0]), one[1])
        x = F.max_pool2d(x, size)
    expected = F.linear(act(F.linear(x.flatten(1), net.fc1.weight, net.fc1.bias), 5), net.fc2.weight, net.fc2.bias)
    torch.testing.assert_close(net.eval()(images), expected)


@pytest.mark.parametrize("activation", [MAXOUT, RELU])
def test_fitresnet4_has_the_weights_of_fitnet4(activation: Activation) -> None:
    shapes, plain = (
        {name: tuple(weight.shape) for name, weight in build(plan, activation).state_dict().items()}
        for plan in (FITRESNET4, FITNET4)
    )
    assert shapes == plain


def test_pairs_do_not_overlap_do_not_span_a_pooling_and_do_not_begin_with_the_images() -> None:
    plan = residual(
        (Input(3, 4), Conv(3), Conv(3), Conv(3), Conv(3), Conv(4), Pool(2), Conv(3), Conv(4), Conv(4), Conv(5), Conv(4))
    )
    marks = [part.identity for part in plan if isinstance(part, Conv)]
    assert marks == [False, False, True, False, False, False, True, False, False, True]


def test_lsuv_brings_fitresnet4_to_unit_variance() -> None:
    torch.manual_seed(0)
    net, images = build(FITRESNET4, MAXOUT, width=0.125), torch.randn(64, 3, 32, 32)
    report = lsuv_(net, images, dropout=False)
    assert [row.layer for row in report[::2]][:17] == [f"conv{number}" for number in range(1, 18)]
    outputs: dict[str, Tensor] = {}
    for name, layer in net.eval().named_children():
        layer.register_forward_hook(lambda _, args, output, name=name: outputs.update({name: output}))
    net(images)
    for row in report:
        pieces = getattr(net.get_submodule(row.layer), "pieces", 1)
        variance = outputs[row.layer][:, row.piece :: pieces].var(correction=0).item()
        assert (row.converged, variance) == (True, pytest.approx(1, abs=0.021))


# By hand: 9·16 + 16; three times 16·9·16 + 16; 16·9·12 + 12; 12·9·12 + 12; 3·3·12·10 + 10. Maxout has two pieces.
@pytest.mark.parametrize(
    ("activation", "parameters"),
    [(RELU, 160 + 3 * 2320 + 1740 + 1308 + 1090), (MAXOUT, 2 * (160 + 3 * 2320 + 1740 + 1308) + 1090)],
)
def test_the_fitnet_for_mnist(activation: Activation, parameters: int) -> None:
    net = build(MNIST_FITNET, activation, dropout=0.3)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    kinds = {nn.Conv2d: "C", nn.MaxPool2d: "P", nn.Dropout: "D", nn.Flatten: "f", nn.Linear: "L"}
    assert "".join(kinds.get(type(layer), "x") for layer in net) == "CxCxPCxCxPCxCxPDfL"
    x, sides = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), []
    for layer in net:
        before, x = x, layer(x)
        if isinstance(layer, nn.MaxPool2d):
            sides.append(x.shape[-1])
            size, stride = (4, 2) if len(sides) < 3 else (2, 2)
            windows = [slice(stride * i, stride * i + size) for i in range(sides[-1])]  # cut off at the edge
            expected = [[before[..., rows, columns].amax((2, 3)) for columns in windows] for rows in windows]
            torch.testing.assert_close(x, torch.stack([torch.stack(row, -1) for row in expected], -2))
    assert sides == [13, 6, 3]
    assert x.shape == (2, 10)
    assert [name for name, layer in net.named_children() if isinstance(layer, nn.Linear)] == ["fc1"]


def test_width_scales_channels_and_hidden_units() -> None:
    quarter = build(FITNET4, RELU, width=0.25)
    shapes = [tuple(layer.weight.shape[:2]) for layer in quarter if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [shapes[i] for i in (0, 3, 5, 11, 17, 18)] == [(8, 3), (12, 8), (20, 12), (32, 20), (125, 32), (10, 125)]
    assert build(FITNET4, RELU, width=0.001, classes=3)(IMAGE).shape == (1, 3)  # at least one channel
