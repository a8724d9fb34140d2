"""The networks on which compare_lsuv.py compares the two implementations of LSUV."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig

from replicate.nn.activations import MAXOUT
from replicate.nn.fitnet import FITNET4, build


class Graph(nn.Module):
    """Layers by name, registered in this order, and a function of this module and its inputs."""

    def __init__(self, run: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Tensor) -> Tensor:
        """Apply the function."""
        return self.run(self, *args)


class Dead(nn.Module):
    """An activation that has died."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by zero."""
        return x * 0


def _two_parents() -> nn.Module:
    common = nn.Linear(64, 64)
    late = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), common)
    early = nn.Sequential(common, nn.Tanh(), nn.Linear(64, 64))
    return Graph(lambda m, x: m.late(m.early(x)), late=late, early=early)


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 50, bias=False))
    model[3].weight = model[0].weight
    return model


def _vgg() -> nn.Module:
    sizes = [3, 16, 16, 32, 32, 48, 48, 64, 64]
    convs = [m for i, o in pairwise(sizes) for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU(True))]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_dense(64, 64, 64, 10))


def _dense(*sizes: int) -> list[nn.Module]:
    return [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())][:-1]


def _reversed() -> nn.Module:
    layers = {name: nn.Linear(64, 64) for name in "dcba"}
    return Graph(lambda m, x: m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))), **layers)


def _unused() -> nn.Module:
    return Graph(lambda m, x: m.b(F.relu(m.a(x))), **{name: nn.Linear(64, 64) for name in ("a", "never", "b")})


def _bilinear() -> nn.Module:
    return Graph(lambda m, x: m.b(m.a(x), torch.tanh(m.a(x))), a=nn.Linear(64, 16), b=nn.Bilinear(16, 16, 8))


def _convnext() -> nn.Module:
    return tv.ConvNeXt([CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 2)])


def _normed() -> nn.Module:
    return nn.Sequential(*_dense(64, 64), nn.utils.parametrizations.weight_norm(nn.Linear(64, 8)))


FLAT, IMAGES, LARGE = (64, 64), (32, 3, 32, 32), (16, 3, 64, 64)


class Case(NamedTuple):
    """A network and its batch.

    Args:
        make: makes the network.
        shape: shape of the batch.
        dtype: dtype of the batch; if it is a floating-point type, also of the network.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = FLAT
    dtype: torch.dtype = torch.float32


CASES = {
    "a plain chain": Case(lambda: nn.Sequential(*_dense(64, 64, 64, 64, 10))),
    "registered in another order than called": Case(_reversed),
    "one layer under two parents": Case(_two_parents),
    "in-place activations (VGG-like)": Case(_vgg, IMAGES),
    "a layer that is never called": Case(_unused),
    "a layer without variance (dead input)": Case(lambda: nn.Sequential(*_dense(64, 64), Dead(), nn.Linear(64, 8))),
    "a head whose weight is the embedding's": Case(_tied, (16, 10), torch.int64),
    "bilinear": Case(_bilinear),
    "maxout, each piece on its own (FitNet-4, width 1/4)": Case(lambda: build(FITNET4, MAXOUT, width=0.25), IMAGES),
    "weight_norm": Case(_normed),
    "bfloat16 on a CPU": Case(lambda: nn.Sequential(*_dense(64, 64, 64, 10)), FLAT, torch.bfloat16),
    "torchvision resnet18": Case(tv.resnet18, LARGE),
    "torchvision densenet121": Case(tv.densenet121, LARGE),
    "torchvision mobilenet_v3_small": Case(tv.mobilenet_v3_small, LARGE),
    "torchvision efficientnet_b0": Case(tv.efficientnet_b0, LARGE),
    "torchvision googlenet": Case(lambda: tv.googlenet(init_weights=False, aux_logits=True), LARGE),
    "torchvision squeezenet1_1": Case(tv.squeezenet1_1, LARGE),
    "torchvision ConvNeXt (2 stages)": Case(_convnext, LARGE),
    "torchvision VisionTransformer (4 blocks)": Case(lambda: tv.VisionTransformer(64, 16, 4, 4, 128, 256), LARGE),
    "torchvision SwinTransformer (2 stages)": Case(
        lambda: tv.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4]), LARGE
    ),
}
