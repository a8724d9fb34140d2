"""lsuv_ against the paper's loop in its plainest form, on models that are hard to initialise and on known nets."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torchvision.models as tv
from init import reference
from init.zoo import ZOO, build, generator, noise
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from replicate.init import Report, initialize_, lsuv_
from replicate.names import ACTIVATIONS, resolve
from replicate.nn.fitnet import FITNET4
from replicate.nn.fitnet import build as build_net


def assert_unit_variance(model: nn.Module, args: tuple[Tensor, ...], report: Report) -> None:
    """The report names the layers in the order of their calls, and all of them have variance 1 at once."""
    found = reference.variances(model.eval(), args)
    rows = [row for row in report if row.order]
    assert [(row.layer, row.piece) for row in rows] == list(found)
    for row in rows:
        assert row.status == "converged"
        assert abs(found[row.layer, row.piece] - 1) <= 0.02 + 1e-4
        assert row.variance_after == pytest.approx(found[row.layer, row.piece], abs=1e-4)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("one_pass", [True, False])
def test_the_weights_are_those_of_the_plain_loop(name: str, one_pass: bool) -> None:
    args = ZOO[name][1]
    # The plain loop starts from the drawn weights: with tol = ∞ nothing is rescaled.
    model = build(name)
    lsuv_(model, args, tol=float("inf"), dropout=False, generator=generator())
    expected = copy.deepcopy(model)
    reference.lsuv(expected, args)
    report = lsuv_(model, args if one_pass else [args], dropout=False, pre_init=None)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=2e-4, atol=1e-6)
    assert_unit_variance(model, args, report)


@pytest.mark.parametrize("init", ["lsuv", "orthonormal", "orthonormal_msra", "xavier", "msra"])
@pytest.mark.parametrize("name", ZOO)
def test_every_linear_map_follows_its_formula(name: str, init: str) -> None:
    model, args = build(name), ZOO[name][1]
    report = initialize_(model, init, [args], generator=generator(), negative_slope=1 / 3)
    assert all(row.variance and (row.converged is None) == (init != "lsuv") for row in report if row.order)
    assert not any(p.any() for key, p in model.named_parameters() if key.endswith("bias"))
    normalised = []
    for key in reference.variances(model, args):
        weight = reference.weight_of(model, key)
        owner = None if key[0].endswith(("in_proj", "q_proj", "k_proj", "v_proj")) else model.get_submodule(key[0])
        for part in weight.chunk(getattr(owner, "groups", 1)):
            matrix = (part.transpose(0, 1) if getattr(owner, "transposed", False) else part).flatten(1)
            normalised.append(matrix.flatten() * matrix.shape[1] ** 0.5)
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            square = {"lsuv": gram[0, 0].item(), "orthonormal": 1, "orthonormal_msra": 2 / (1 + 1 / 9)}.get(init)
            if square:  # LSUV: whatever the data require
                torch.testing.assert_close(gram, square * torch.eye(len(gram)), atol=2e-5 * square, rtol=0)
    assert len({part[0].item() for part in normalised}) == len(normalised)  # each is drawn separately
    values = torch.cat(normalised)
    if init in ("xavier", "msra"):
        expected = {"xavier": 1, "msra": 2}[init]
        assert values.mean().item() == pytest.approx(0, abs=4 * math.sqrt(expected / len(values)))
        # The square of a normal variable scatters by √2.
        assert values.square().mean().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / len(values)))
        # A uniform variable never exceeds √3 standard deviations; one in twelve normal variables does.
        assert (values.abs().max().item() <= math.sqrt(3 * expected)) == (init == "xavier")


# Small, but with the mechanisms of their families: the SVD of a wide layer takes seconds.
KINDS = ("maxout", "relu", "vlrelu", "tanh", "sigmoid", "prelu")
FAMILIES: dict[str, Callable[[], nn.Module]] = {
    **{f"fitnet4 {name}": partial(build_net, FITNET4, resolve(ACTIVATIONS[name]), width=0.125) for name in KINDS},
    "densenet": partial(tv.DenseNet, 8, (2, 3, 2), 16, num_classes=10, memory_efficient=True),
    "mobilenet": partial(tv.mobilenet_v3_small, num_classes=10, reduced_tail=True),
    "convnext": partial(tv.ConvNeXt, [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)], 0.1, num_classes=10),
    "vit": partial(tv.VisionTransformer, 32, 8, 2, 4, 64, 128, num_classes=10),
    "googlenet": partial(tv.googlenet, num_classes=10, init_weights=False, aux_logits=True),
    "squeezenet": partial(tv.squeezenet1_1, num_classes=10),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_known_networks_has_unit_variance_at_once(name: str) -> None:
    torch.manual_seed(0)
    model, x = FAMILIES[name](), noise(16, 3, 32, 32)
    report = lsuv_(model, x, dropout=False, generator=generator())
    assert_unit_variance(model, (x,), report)
    missed = {row.layer.split(".")[0] for row in report if not row.order}
    assert missed == ({"aux1", "aux2"} if name == "googlenet" else set())
    assert report.passes == 2


def test_with_fresh_batches_and_dropout_the_mean_is_near_one() -> None:
    stream = generator(3)
    torch.manual_seed(1)
    report = lsuv_(FAMILIES["vit"](), lambda: torch.randn(16, 3, 32, 32, generator=stream))
    assert report.batches == 32
    assert all(abs(row.variance - 1) <= 0.05 for row in report)
