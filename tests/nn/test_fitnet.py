"""FitNet-4 against the counts and the order of layers in the released code."""

import pytest
import torch
from torch import nn

from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, PLANS, Classifier, Conv, Hidden, Pool, build
from replicate.run import MODELS

IMAGE = torch.zeros(1, 3, 32, 32)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def multiply_adds(net: nn.Module) -> int:
    """Of one image's forward pass: weights times the positions at which they are applied."""
    total = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += module.weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

    handles = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    net(IMAGE)
    for handle in handles:
        handle.remove()
    return total


def test_the_registry_holds_the_names_of_a_run() -> None:
    assert tuple(PLANS) == MODELS


@pytest.mark.parametrize(
    ("activation", "parameters", "operations"),
    [
        ("relu", 1_276_806, 190_877_064),
        ("vlrelu", 1_276_806, 190_877_064),
        ("tanh", 1_276_806, 190_877_064),
        ("sigmoid", 1_276_806, 190_877_064),
        ("maxout", 2_742_102, 381_941_128),
    ],
)
def test_size(activation: str, parameters: int, operations: int) -> None:
    net = build(FITNET4, ACTIVATIONS[activation])
    assert count(net) == parameters
    assert multiply_adds(net) == operations


def test_the_order_of_the_layers() -> None:
    kinds = {nn.Dropout: "D", nn.Conv2d: "C", nn.ReLU: "x", nn.MaxPool2d: "P", nn.Flatten: "f", nn.Linear: "L"}
    order = "".join(kinds[type(layer)] for layer in build(FITNET4, ACTIVATIONS["relu"]))
    assert order == "D" + "Cx" * 5 + "P" + "D" + "Cx" * 6 + "P" + "D" + "Cx" * 6 + "P" + "D" + "f" + "Lx" + "D" + "L"
    channels = [part.channels for part in FITNET4 if isinstance(part, Conv)]
    assert channels == [32] * 3 + [48] * 2 + [80] * 6 + [128] * 6
    assert [part.size for part in FITNET4 if isinstance(part, Pool)] == [2, 2, 8]
    assert [type(part) for part in FITNET4][-3:] == [Hidden, type(FITNET4[0]), Classifier]


def test_the_names_of_the_weight_layers() -> None:
    net = build(FITNET4, ACTIVATIONS["tanh"])
    names = [name for name, layer in net.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert names == [f"conv{i}" for i in range(1, 18)] + ["fc1", "fc2"]


def test_every_layer_but_the_classifier_of_a_maxout_net_has_pieces() -> None:
    net = build(FITNET4, ACTIVATIONS["maxout"])
    layers = {name: layer for name, layer in net.named_children() if isinstance(layer, nn.Conv2d | nn.Linear)}
    pieces = {name: getattr(layer, "pieces", 1) for name, layer in layers.items()}
    assert pieces == {**{f"conv{i}": 2 for i in range(1, 18)}, "fc1": 5, "fc2": 1}
    assert layers["conv5"].weight.shape == (48 * 2, 48, 3, 3)
    assert layers["fc1"].weight.shape == (500 * 5, 128)


def test_width_scales_channels_and_hidden_units() -> None:
    quarter = build(FITNET4, ACTIVATIONS["relu"], width=0.25)
    shapes = [tuple(layer.weight.shape[:2]) for layer in quarter if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [shapes[i] for i in (0, 3, 5, 11, 17, 18)] == [(8, 3), (12, 8), (20, 12), (32, 20), (125, 32), (10, 125)]
    assert quarter(IMAGE).shape == (1, 10)
    assert build(FITNET4, ACTIVATIONS["relu"], width=0.001, classes=3)(IMAGE).shape == (1, 3)  # at least one channel


def test_dropout_rate_and_its_places() -> None:
    drops = [layer.p for layer in build(FITNET4, ACTIVATIONS["relu"], dropout=0.3) if isinstance(layer, nn.Dropout)]
    assert drops == [0.3] * 5  # input, after each of the three poolings, after the hidden layer


def test_the_backward_pass_is_deterministic() -> None:
    torch.use_deterministic_algorithms(True)  # raises in the backward pass of an operation that is not
    try:
        build(FITNET4, ACTIVATIONS["maxout"], width=0.125)(torch.ones(2, 3, 32, 32)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
