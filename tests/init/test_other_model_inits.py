"""Each further initialisation of a whole net against the formula of its paper."""

import math

import pytest
import torch
from init.zoo import generator, noise
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import LSUVError, initialize_, other_model_inits
from replicate.init.other_model_inits import (
    gradient_quotient,
    krahenbuhl,
    maxout_normal,
    metainit,
    moments_of_largest,
    weight_modules,
)
from replicate.init.schemes import msra
from replicate.names import ACTIVATIONS, MODELS, resolve
from replicate.nn.fitnet import build


def net(model: str, activation: str, width: float = 0.25) -> nn.Sequential:
    torch.manual_seed(0)
    return build(resolve(MODELS[model]), resolve(ACTIVATIONS[activation]), width=width)


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each weight layer returns."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_children():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda _, args, output, name=name: found.update({name: output}))
    model.eval()(images)
    return found


@pytest.mark.parametrize("activation", ["relu", "maxout"])
def test_krahenbuhl_normalises_each_channel(activation: str) -> None:
    model, images = net("fitnet4", activation), noise(64, 3, 32, 32)
    report = initialize_(model, "krahenbuhl", images, generator=generator(), dropout=False)
    for name, output in outputs(model, images).items():
        channels = output.transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(1), torch.full((len(channels),), 0.1), atol=2e-3, rtol=0, msg=name)
        torch.testing.assert_close(channels.var(1, correction=0), torch.ones(len(channels)), atol=5e-3, rtol=0)
    assert report.passes == 2  # to normalise the layers, and to measure them


def test_krahenbuhl_keeps_a_channel_that_never_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    with torch.no_grad():
        krahenbuhl(model, iter([torch.ones(5, 3)]), generator())
    assert torch.isfinite(model[0].weight).all()


def test_the_largest_of_normal_numbers() -> None:
    # two: 1/√π and 1 - 1/π; five: tables of order statistics
    for count, mean, variance in ((1, 0, 1), (2, math.pi**-0.5, 1 - 1 / math.pi), (5, 1.16296, 0.44753)):
        assert moments_of_largest(count) == pytest.approx((mean, variance), abs=1e-5)


def test_the_rule_for_maxout() -> None:
    model = net("fitnet4", "maxout", width=1.0)
    with torch.no_grad():
        maxout_normal(model, iter(()), generator())
    for name, factor in (("conv1", 1), ("conv9", 1), ("fc1", 1), ("fc2", 1 / 1.80001)):  # fc1 has five pieces
        weight = model.get_submodule(name).weight
        fan_in = weight[0].numel()
        assert fan_in * float(weight.var()) == pytest.approx(factor, rel=5 * math.sqrt(2 / weight.numel())), name
    relu = net("fitnet4", "relu", width=1.0)
    with torch.no_grad():
        maxout_normal(relu, iter(()), generator())
    assert 9 * 80 * float(relu.conv9.weight.var()) == pytest.approx(2, rel=0.05)


def test_fixup_is_the_identity_in_each_branch() -> None:
    model, images = net("fitresnet4", "relu", width=1.0), noise(2, 3, 32, 32)
    initialize_(model, "fixup", images, generator=generator())
    for name in ("conv3", "conv8", "conv10", "conv14", "conv16", "fc2"):
        assert not model.get_submodule(name).weight.any()
    for name, factor in (("conv2", 2 / 5), ("conv9", 2 / 5), ("conv12", 2)):  # 5 branches of 2 layers: 5^(-1/2)
        weight = model.get_submodule(name).weight
        assert weight[0].numel() * float(weight.var()) == pytest.approx(factor, rel=0.05), name
    by_name: dict[str, Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda _, args, output, name=name: by_name.update({name: (args[0], output)}))
    model.eval()(images)
    assert torch.equal(by_name["conv9"][0], by_name["conv11"][0])  # the branch between adds nothing
    with pytest.raises(LSUVError, match="fixup is for residual nets"):
        initialize_(net("fitnet4", "relu"), "fixup", images)


def test_the_gradient_quotient_of_a_quadratic_form() -> None:
    matrix = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    point = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    # g = (2, -1) and Hg = (5, 0): |(2 - 5) / 2 - 1| = 2.5 and |(-1 - 0) / -1 - 1| = 0
    quotient = gradient_quotient(point @ matrix @ point / 2, [point])
    assert float(quotient) == pytest.approx(1.25, abs=1e-4)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), resolve(ACTIVATIONS["maxout"]).module(2)])
def test_metainit_mends_weights_that_are_too_large(activation: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_model_inits, "msra", lambda shape, own: 4 * msra(shape, own))
    pieces = getattr(activation, "pieces", 1)
    model = nn.Sequential()
    for _ in range(5):
        model.extend([nn.Linear(16, 16 * pieces), activation])
    model.append(nn.Linear(16, 4))
    weights, quotients, labels = [], [], torch.arange(256) % 4
    for steps in (0, other_model_inits.STEPS):
        monkeypatch.setattr(other_model_inits, "STEPS", steps)
        report = initialize_(model, "metainit", noise(32, 16), generator=generator())
        assert report.passes == steps + 1
        weights.append([module.weight.detach().clone() for module in weight_modules(model)])
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(
            F.cross_entropy(model(noise(256, 16, seed=3)), labels), parameters, create_graph=True
        )
        products = torch.autograd.grad(sum((one**2).sum() for one in gradients), parameters)
        terms = [((g - h / 2) / g - 1).abs().flatten() for g, h in zip(gradients, products, strict=True)]
        quotients.append(float(torch.cat(terms).nanmedian()))  # few very small gradients decide the mean
    assert quotients[1] < 0.3 * quotients[0]
    for before, after in zip(*weights, strict=True):
        ratio = after / before  # only the norm differs
        assert (ratio > 0).all()
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), atol=0, rtol=1e-3)
    assert model.training


def test_metainit_is_reproducible_and_looks_at_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(other_model_inits, "STEPS", 2)
    models = [net("fitnet1", "maxout", width=0.0625) for _ in range(2)]
    for model, seed in zip(models, (1, 2), strict=True):
        with torch.no_grad():
            metainit(model, iter([noise(4, 3, 32, 32, seed=seed)]), generator())
    assert all(map(torch.equal, *(model.state_dict().values() for model in models)))


@pytest.mark.parametrize("init", ["krahenbuhl", "maxout_normal", "metainit", "autoinit"])
def test_layers_of_another_kind_are_refused(init: str) -> None:
    with pytest.raises(LSUVError, match="knows Conv2d and Linear only, not Conv1d"):
        initialize_(nn.Sequential(nn.Conv1d(3, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), init, noise(5, 3, 4))
