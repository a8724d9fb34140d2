"""FitNet-4, the 17-layer network of Table 3: its plan as data, and the builder of networks from plans."""

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
class Classifier:
    """The last fully connected layer, one output a class; softmax is part of the loss."""


Plan = Sequence[Conv | Pool | Hidden | Dropout | Classifier]

# Released code: examples/lsuv/cifar10. The last pooling spans the whole 8×8 map; MaxPool2d(8) does that with a
# deterministic backward pass, which AdaptiveMaxPool2d does not have.
FITNET4: Plan = (
    *(Dropout(), Conv(32), Conv(32), Conv(32), Conv(48), Conv(48), Pool(2)),
    *(Dropout(), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Pool(2)),
    *(Dropout(), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Pool(8)),
    *(Dropout(), Hidden(500), Dropout(), Classifier()),
)

PLANS: dict[str, Plan] = {"fitnet4": FITNET4}

INPUT_CHANNELS = 3  # colour images; the 8×8 map at the end takes 32×32 ones


def build(
    plan: Plan, activation: Activation, *, width: float = 1.0, dropout: float = 0.2, classes: int = 10
) -> nn.Sequential:
    """Build a network. Its weights are torch's defaults until an initialisation of `replicate.init` sets them.

    Weight layers are named `conv1` … `conv17`, `fc1`, `fc2` in the order of the forward pass. A maxout layer carries
    the integer `pieces`.

    Args:
        plan: the layers, in order.
        activation: follows every convolution and hidden layer.
        width: factor on channels and hidden units, each rounded, at least 1.
        dropout: probability of every Dropout of the plan.
        classes: outputs of the classifier.

    Returns:
        A module that takes images (n, 3, 32, 32) to logits (n, classes).
    """
    layers: dict[str, nn.Module] = {}
    channels, convs, linears, drops, flat = INPUT_CHANNELS, 0, 0, 0, False

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
            case Hidden() | Classifier():
                if not flat:
                    layers["flatten"], flat = nn.Flatten(), True
                linears += 1
                if isinstance(part, Classifier):
                    layers[f"fc{linears}"] = nn.Linear(channels, classes)
                else:
                    pieces, outputs = activation.hidden_pieces, scaled(part.units)
                    layers[f"fc{linears}"] = _in_pieces(nn.Linear(channels, outputs * pieces), pieces)
                    layers[f"fc{linears}_act"] = activation.module(pieces)
                    channels = outputs
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def _in_pieces(layer: nn.Conv2d | nn.Linear, pieces: int) -> nn.Module:
    if pieces > 1:
        layer.pieces = pieces  # type: ignore[assignment]  # what `replicate.init` knows a maxout layer by
    return layer
