"""AutoInit: what each module makes of mean and variance, and the variances that follow."""

import math
from itertools import pairwise

import pytest
import torch
from init.zoo import generator
from torch import nn

from replicate.init import LSUVError, initialize_, measure
from replicate.init.autoinit import Moments, after
from replicate.names import ACTIVATIONS, MODELS, resolve
from replicate.nn.fitnet import build

CPU = torch.device("cpu")
DROPOUT = nn.Dropout(0.2)


@pytest.mark.parametrize(
    ("module", "signal", "expected"),
    [
        (nn.ReLU(), (0, 1), (1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi))),
        (nn.ReLU(), (0, 4), (2 / math.sqrt(2 * math.pi), 2 - 2 / math.pi)),
        (nn.Tanh(), (0, 1), (0, 0.394294)),  # the integral of tanh² by the normal density
        # the mean square is divided by 1 - p: (1 + 4) / 0.8 - 1
        (DROPOUT, (1, 4), (1, 5 / 0.8 - 1)),
        (DROPOUT.__class__(0.2).eval(), (1, 4), (1, 4)),
        (nn.MaxPool2d(2), (3, 4), (3 + 2 * 1.02938, 4 * 0.49172)),  # of four, by tables of order statistics
        (resolve(ACTIVATIONS["maxout"]).module(2), (0, 1), (math.pi**-0.5, 1 - 1 / math.pi)),
        (nn.Conv2d(3, 4, 3), (7, 9), (0, 1)),
        (nn.BatchNorm1d(3), (7, 9), (0, 1)),
        (nn.BatchNorm1d(3).eval(), (7, 9), (7, 9)),
        (nn.Flatten(), (7, 9), (7, 9)),
    ],
)
def test_mean_and_variance(module: nn.Module, signal: tuple[float, float], expected: tuple[float, float]) -> None:
    assert after(module, Moments(*signal), CPU) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("dropout", [True, False])
def test_each_layer_of_a_wide_net_has_unit_variance(dropout: bool) -> None:
    parts: list[nn.Module] = []
    for ins, outs in pairwise((400, 500, 600, 500, 300)):
        parts += [nn.Dropout(0.3), nn.Linear(ins, outs), nn.SiLU()]
    # images of another seed than the weights, which would be the same numbers
    model, images = nn.Sequential(*parts), 2 + 3 * torch.randn(200, 400, generator=generator().manual_seed(5))
    initialize_(model, "autoinit", images, generator=generator(), dropout=dropout)
    variances = [row.variance for row in measure(model, images, dropout=dropout)]
    assert variances == pytest.approx([1] * 4, rel=0.15)


def test_the_branches_of_a_residual_net_add_up() -> None:
    model = build(resolve(MODELS["fitresnet4"]), resolve(ACTIVATIONS["vlrelu"]), width=2.0)
    with torch.no_grad():
        initialize_(
            model, "autoinit", torch.randn(4, 3, 32, 32, generator=generator()), generator=generator(), dropout=False
        )
    # conv4's input is the output of conv1's activation plus that of conv3's, each of the moments m of VLReLU
    mean, variance = after(resolve(ACTIVATIONS["vlrelu"]).module(1), Moments(0, 1), CPU)
    square = (2 * mean) ** 2 + 2 * variance
    weight = model.conv4.weight
    assert weight[0].numel() * float(weight.var()) == pytest.approx(1 / square, rel=0.03)


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        (
            nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)),
            torch.ones(4, 3),
            "does not know what Softmax does to a signal",
        ),
        (nn.Sequential(nn.Sequential(nn.Linear(3, 2))), torch.ones(4, 3), "is for a sequence of layers"),
        (nn.Linear(3, 2), torch.ones(4, 3), "is for a sequence of layers"),
        (nn.Sequential(nn.Linear(3, 2)), torch.zeros(4, 3), "cannot scale 0, because its input is zero"),
    ],
)
def test_what_autoinit_cannot_do_is_refused(model: nn.Module, images: torch.Tensor, message: str) -> None:
    with pytest.raises(LSUVError, match=f"autoinit {message}"):
        initialize_(model, "autoinit", images)
