"""One network of each family that torchvision has, at 64×64: every layer at unit variance at once."""

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision.models as tv
from init import reference
from init.zoo import noise
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from replicate.init import lsuv_


def resnet() -> nn.Module:
    model = tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    model.layer4, model.fc = nn.Identity(), nn.Linear(256, 10)  # an SVD of its 512×4608 weights takes seconds
    return model


MOBILE = [  # blocks of MobileNetV3: with and without squeeze-and-excitation, skips and hard swish
    InvertedResidualConfig(8, 3, 8, 8, True, "RE", 2, 1, 0.5),
    InvertedResidualConfig(8, 3, 40, 16, False, "HS", 2, 1, 0.5),
    InvertedResidualConfig(16, 5, 48, 16, True, "HS", 1, 1, 0.5),
]
# Small, but with all that their families are known for: the SVD of a wide layer takes seconds.
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "densenet": partial(tv.DenseNet, 8, (2, 3, 2), 16, num_classes=10, memory_efficient=True),
    "mobilenet": partial(tv.MobileNetV3, MOBILE, 128, num_classes=10),
    "efficientnet": partial(tv.efficientnet_b0, num_classes=10),
    "convnext": partial(tv.ConvNeXt, [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], 0.1, num_classes=10),
    "vit": partial(tv.VisionTransformer, 64, 16, 2, 4, 64, 128, num_classes=10),
    "swin": partial(tv.SwinTransformer, [4, 4], 16, [2, 2], [2, 4], [4, 4], num_classes=10),
    "googlenet": partial(tv.googlenet, num_classes=10, init_weights=False, aux_logits=True),
    "shufflenet": partial(tv.shufflenet_v2_x0_5, num_classes=10),
    "squeezenet": partial(tv.squeezenet1_1, num_classes=10),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return FAMILIES[name]()


def linears(model: nn.Module, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Variances of what the linear layers' weights are applied to, also by functions without a call of the module."""
    names = {id(module.weight): name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found: dict[str, float] = {}

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = torch._C._nn.linear(x, weight, bias)
        found.setdefault(names[id(weight)], y.double().var(correction=0).item())
        return y

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(nn.functional, "linear", linear)
        model(x)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_holds_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(name), noise(4, 3, 64, 64)
    report = lsuv_(model, x, dropout=False, generator=torch.Generator().manual_seed(0))
    found = reference.variances(model.eval(), (x,))
    if name == "swin":  # uses the weights of its attention without calling their modules
        found |= {(layer, 0): variance for layer, variance in linears(model, x, monkeypatch).items()}
    assert {(row.layer, row.piece) for row in report if row.order} == set(found)
    assert all(row.converged for row in report if row.order)
    assert all(abs(variance - 1) <= 0.02 + 1e-4 for variance in found.values())
    left = {row.layer.split(".")[0] for row in report if not row.order}
    assert left == ({"aux1", "aux2"} if name == "googlenet" else set())
    assert report.passes == 2


@pytest.mark.parametrize(("name", "images"), [("resnet", 16), ("vit", 16), ("mobilenet", 2)])
def test_with_fresh_batches_the_mean_is_near_one_or_the_layer_is_named(name: str, images: int) -> None:
    stream = torch.Generator().manual_seed(3)
    torch.manual_seed(1)
    size = 64 if name == "vit" else 48
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = lsuv_(build(name), lambda: torch.randn(images, 3, size, size, generator=stream))
    assert report.batches == 32
    off = {row.layer for row in report if abs(row.variance - 1) > 0.05}
    # With one pixel of two images, behind dropout and batch norm, the variance scatters; how much depends on the CPU.
    few = {row.layer for row in report if ".fc" in row.layer or row.layer.startswith("classifier")}
    assert off <= (few if name == "mobilenet" else set())
    assert {row.layer for row in report if row.status == "off on further batches"} == off
