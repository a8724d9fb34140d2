"""FitNet-4, the 17-layer network of Table 3: its plan as data, and the builder of networks from plans."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replicate.nn.activations import Activation


@dataclass(frozen=True, slots=True)
class Conv:
    """A 3×3 convolution, stride 1, pad 1, with bias, then the activation."""

    channels: int


@dataclass(frozen=True, slots=True)
class Pool:
    """Max-pooling of size×size windows that do not overlap."""

    size: int


@dataclass(frozen=True, slots=True)
class Hidden:
    """A fully connected layer, then the activation."""

    units: int


@dataclass(frozen=True, slots=True)
class Dropout:
    """Dropout with the run's probability."""


@dataclass(frozen=True, slots=True)
class Output:
    """The last fully connected layer, with one output per class; softmax is part of the loss."""


Plan = Sequence[Conv | Pool | Hidden | Dropout | Output]

# Released code: examples/lsuv/cifar10. The last pooling covers the whole 8×8 map. MaxPool2d(8) has a deterministic
# backward pass, unlike AdaptiveMaxPool2d.
FITNET4: Plan = (
    *(Dropout(), Conv(32), Conv(32), Conv(32), Conv(48), Conv(48), Pool(2)),
    *(Dropout(), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Pool(2)),
    *(Dropout(), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Pool(8)),
    *(Dropout(), Hidden(500), Dropout(), Output()),
)

INPUT_CHANNELS = 3  # colour images, of 32×32 pixels so that the last map has 8×8


def build(
    plan: Plan, activation: Activation, *, width: float = 1.0, dropout: float = 0.2, classes: int = 10
) -> nn.Sequential:
    """Build a network. Its weights are torch's defaults until an initialisation of `replicate.init` sets them.

    Weight layers are named `conv1` … `conv17`, `fc1`, `fc2` in the order of the forward pass. A maxout layer has the
    integer attribute `pieces`.

    Args:
        plan: the layers, in order.
        activation: follows every convolution and hidden layer.
        width: factor on channels and hidden units, each rounded, at least 1.
        dropout: probability of every Dropout in the plan.
        classes: outputs of the classifier.

    Returns:
        A module that maps images (n, 3, 32, 32) to logits (n, classes).
    """
    layers: dict[str, nn.Module] = {}
    channels, convs, linears, drops = INPUT_CHANNELS, 0, 0, 0

    def scaled(size: int) -> int:
        return max(1, round(size * width))

    for part in plan:
        match part:
            case Conv():
                convs += 1
                pieces, outputs = activation.conv_pieces, scaled(part.channels)
                layers[f"conv{convs}"] = _in_pieces(nn.Conv2d(channels, outputs * pieces, 3, padding=1), pieces)
                layers[f"conv{convs}_act"] = activation.module(pieces)
                channels = outputs
            case Pool():
                layers[f"pool{convs}"] = nn.MaxPool2d(part.size)
            case Dropout():
                drops += 1
                layers[f"drop{drops}"] = nn.Dropout(dropout)
            case Hidden() | Output():
                layers.setdefault("flatten", nn.Flatten())
                linears += 1
                if isinstance(part, Output):
                    layers[f"fc{linears}"] = nn.Linear(channels, classes)
                else:
                    pieces, outputs = activation.hidden_pieces, scaled(part.units)
                    layers[f"fc{linears}"] = _in_pieces(nn.Linear(channels, outputs * pieces), pieces)
                    layers[f"fc{linears}_act"] = activation.module(pieces)
                    channels = outputs
    return nn.Sequential(OrderedDict(layers))


def _in_pieces(layer: nn.Conv2d | nn.Linear, pieces: int) -> nn.Module:
    if pieces > 1:
        layer.pieces = pieces  # type: ignore[assignment]  # `replicate.init` recognises a maxout layer by it
    return layer
