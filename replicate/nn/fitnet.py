"""FitNets: their plans as data, FitNet-4 of Table 3 first, and the builder of networks from plans."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal, NamedTuple

from torch import Tensor, nn

from replicate.nn.activations import Activation

Norm = Literal["none", "before", "after"]  # batch normalisation before or after the activation


class Input(NamedTuple):
    """Images of side×side pixels, the first part of every plan."""

    channels: int
    side: int


class Conv(NamedTuple):
    """A 3×3 convolution, stride 1, pad 1, with bias, then the activation.

    `identity`: the input of the convolution before is added at the end.
    """

    channels: int
    norm: Norm = "none"
    identity: bool = False


class Pool(NamedTuple):
    """Max-pooling of size×size windows, which begin every `stride` pixels (None: they do not overlap).

    As in Caffe, the last windows may extend beyond the map.
    """

    size: int
    stride: int | None = None


class Hidden(NamedTuple):
    """A fully connected layer, then the activation. `pieces` of maxout; None: as many as the activation says."""

    units: int
    pieces: int | None = None
    norm: Norm = "none"


class Flatten:
    """From maps to a vector."""


class Dropout:
    """Dropout with the run's probability."""


class Output:
    """The last fully connected layer, with one output per class; softmax is part of the loss."""


Part = Input | Conv | Pool | Hidden | Flatten | Dropout | Output
Plan = Sequence[Part]

# Released code: examples/lsuv/cifar10. The last pooling covers the whole 8×8 map. MaxPool2d(8) has a deterministic
# backward pass, unlike AdaptiveMaxPool2d.
FITNET4: Plan = (
    *(Input(3, 32), Dropout(), Conv(32), Conv(32), Conv(32), Conv(48), Conv(48), Pool(2)),
    *(Dropout(), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Conv(80), Pool(2)),
    *(Dropout(), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Conv(128), Pool(8)),
    *(Dropout(), Flatten(), Hidden(500), Dropout(), Output()),
)

# Romero et al. 2015: 250,000 parameters and 9 convolutions; the channels are inferred from these. Maxout has two pieces
# throughout. That dropout is where FitNet-4 has it is our choice.
FITNET1: Plan = (
    *(Input(3, 32), Dropout(), Conv(16), Conv(16), Conv(16), Pool(2)),
    *(Dropout(), Conv(32), Conv(32), Conv(32), Pool(2)),
    *(Dropout(), Conv(48), Conv(48), Conv(64), Pool(8)),
    *(Dropout(), Flatten(), Hidden(500, pieces=2), Dropout(), Output()),
)

# Released code: examples/lsuv/mnist. Maxout has two pieces. The maps are 28×28, 13×13, 6×6 and 3×3.
MNIST_FITNET: Plan = (
    *(Input(1, 28), Conv(16), Conv(16), Pool(4, stride=2), Conv(16), Conv(16), Pool(4, stride=2)),
    *(Conv(12), Conv(12), Pool(2), Dropout(), Flatten(), Output()),
)


def deeper(plan: Plan, times: int) -> Plan:
    """Repeat the convolutions between two poolings, all of them in their order: 3 4 with times = 2 is 3 4 3 4."""
    parts: list[Part] = []
    for is_conv, stage in groupby(plan, lambda part: isinstance(part, Conv)):
        parts += [*stage] * (times if is_conv else 1)
    return tuple(parts)


def normalised(plan: Plan, where: Norm) -> Plan:
    """Add batch normalisation to every convolution and hidden layer."""
    return tuple(part._replace(norm=where) if isinstance(part, Conv | Hidden) else part for part in plan)


def residual(plan: Plan) -> Plan:
    """Add an identity around each pair of convolutions whose input is as wide as its output: y = x + pair(x).

    Pairs are formed in the order of the forward pass. They do not overlap, there is no pooling within a pair, and none
    begins with the images.
    """
    parts: list[Part] = []
    width, first = 0, 0  # channels that enter this part, and the convolution before if that may begin a pair
    for part in plan:
        if isinstance(part, Conv):
            ends_pair = part.channels == first
            parts.append(part._replace(identity=ends_pair))
            first, width = 0 if ends_pair else width, part.channels
        else:
            parts.append(part)
            first = 0
    return tuple(parts)


FITNET4_BN_BEFORE, FITNET4_BN_AFTER = normalised(FITNET4, "before"), normalised(FITNET4, "after")
FITNET4_X2, FITNET4_X3, FITNET4_X5 = (deeper(FITNET4, times) for times in (2, 3, 5))  # 34, 51 and 85 convolutions
# The paper's wiring was not released. Our choice: identities around convolutions 2–3, 7–8, 9–10, 13–14 and 15–16.
FITRESNET4 = residual(FITNET4)


class Residual(nn.Sequential):
    """Layers one after another. The input of some layers is added to the output of later ones.

    The layers are not nested, so that their names are those of the net without identities.

    Args:
        layers: by their names.
        identities: layer whose input is added -> layer to whose output it is added, before the next such layer.
    """

    def __init__(self, layers: "OrderedDict[str, nn.Module]", identities: Mapping[str, str]) -> None:
        super().__init__(layers)
        self.identities = dict(identities)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last layer."""
        identity = x
        for name, layer in self.named_children():
            if name in self.identities:
                identity = x
            x = layer(x)
            if name in self.identities.values():
                x = x + identity
        return x


def build(
    plan: Plan, activation: Activation, *, width: float = 1.0, dropout: float = 0.2, classes: int = 10
) -> nn.Sequential:
    """Build a network. Its weights are torch's defaults until an initialisation of `replicate.init` sets them.

    Weight layers are named `conv1`, `conv2`, … and `fc1`, `fc2` in the order of the forward pass. A maxout layer has
    the integer attribute `pieces`. The activation after `conv1` is `conv1_act`, and batch normalisation is `conv1_norm`
    before it or `conv1_act_norm` after it, with torch's settings: momentum 0.1, ε 1e-5, scale 1 and shift 0 at first.

    An identity is added after all of these, for every activation: before it, a maxout layer has several times as many
    channels. This is our choice.

    Args:
        plan: the layers, in order.
        activation: follows every convolution and hidden layer.
        width: factor on channels and hidden units, each rounded, at least 1.
        dropout: probability of every Dropout in the plan.
        classes: outputs of the classifier.

    Returns:
        A module that maps images (n, c, h, w), as in the plan, to logits (n, classes).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    identities: dict[str, str] = {}
    channels, side, convs, linears, drops = 0, 0, 0, 0, 0

    def scaled(size: int) -> int:
        return max(1, round(size * width))

    def add(name: str, layer: nn.Conv2d | nn.Linear, pieces: int, norm: Norm) -> None:
        if pieces > 1:
            layer.pieces = pieces  # type: ignore[assignment]  # `replicate.init` recognises a maxout layer by it
        kind = nn.BatchNorm2d if isinstance(layer, nn.Conv2d) else nn.BatchNorm1d
        layers[name] = layer
        if norm == "before":
            layers[f"{name}_norm"] = kind(channels * pieces)
        layers[f"{name}_act"] = activation.module(pieces)
        if norm == "after":
            layers[f"{name}_act_norm"] = kind(channels)

    for part in plan:
        match part:
            case Input():
                channels, side = part
            case Conv():
                convs += 1
                pieces, inputs, channels = activation.conv_pieces, channels, scaled(part.channels)
                add(f"conv{convs}", nn.Conv2d(inputs, channels * pieces, 3, padding=1), pieces, part.norm)
                if part.identity:
                    identities[f"conv{convs - 1}"] = next(reversed(layers))
            case Pool():
                stride = part.stride or part.size
                steps, rest = divmod(side - part.size, stride)
                layers[f"pool{convs}"] = nn.MaxPool2d(part.size, stride, ceil_mode=rest > 0)
                side = steps + (rest > 0) + 1
            case Dropout():
                drops += 1
                layers[f"drop{drops}"] = nn.Dropout(dropout)
            case Flatten():
                layers["flatten"] = nn.Flatten()
                channels *= side**2
            case Hidden():
                linears += 1
                pieces, inputs, channels = activation.hidden_pieces, channels, scaled(part.units)
                if pieces > 1 and part.pieces is not None:
                    pieces = part.pieces
                add(f"fc{linears}", nn.Linear(inputs, channels * pieces), pieces, part.norm)
            case Output():
                layers[f"fc{linears + 1}"] = nn.Linear(channels, classes)
    return Residual(layers, identities) if identities else nn.Sequential(layers)
