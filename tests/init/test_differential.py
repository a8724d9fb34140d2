"""lsuv_ against the plainest form of the paper's loop, on models where order, sharing and in-place work go wrong."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from init import reference
from init.zoo import ZOO, build, noise
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import lsuv_

SKIPPED = {"tied": ("twin", "head")}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same_weights(model: nn.Module, other: nn.Module) -> None:
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter, theirs[name], rtol=2e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("one_pass", [True, False])
def test_weights_are_those_of_the_plain_loop(name: str, one_pass: bool) -> None:
    args = ZOO[name][1]
    # The plain loop begins from the drawn weights: with tol = ∞ nothing is rescaled.
    model = build(name)
    lsuv_(model, args, tol=float("inf"), dropout=False, generator=generator())
    expected = copy.deepcopy(model)
    reference.lsuv(expected, args, SKIPPED.get(name, ()))
    report = lsuv_(model, args if one_pass else [args], dropout=False, pre_init=None)
    assert_same_weights(model, expected)
    found = reference.variances(model.eval(), args)
    rows = [row for row in report if row.order is not None]
    assert [(row.layer, row.piece) for row in rows] == list(found)
    for row in rows:
        if row.layer in SKIPPED.get(name, ()):
            assert (row.status, row.tries) == ("shared weight", None)
            continue
        assert row.status == "converged"
        assert abs(found[row.layer, row.piece] - 1) <= 0.02 + 1e-5
        assert row.variance_after == pytest.approx(found[row.layer, row.piece], abs=1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_every_linear_map_begins_orthonormal(name: str) -> None:
    model = build(name)
    lsuv_(model, ZOO[name][1], tol=float("inf"), dropout=False, generator=generator())
    for key in reference.variances(model, ZOO[name][1]):
        if key[0] in SKIPPED.get(name, ()):
            continue
        weight = reference.weight_of(model, key).detach()
        owner = model.get_submodule(key[0]) if not key[0].endswith("in_proj") else None
        for part in weight.chunk(getattr(owner, "groups", 1)):
            matrix = part.transpose(0, 1) if getattr(owner, "transposed", False) else part
            matrix = matrix.flatten(1)
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


class Drawn(nn.Module):
    """A net of drawn steps on 6-channel images; its layers are registered in a drawn order."""

    def __init__(self, steps: list[tuple[str, int, bool]], order: list[int]) -> None:
        super().__init__()
        makers = {
            "conv": lambda groups: nn.Conv2d(6, 6, 3, padding=1, groups=groups),
            "transposed": lambda groups: nn.ConvTranspose2d(6, 6, 3, padding=1, groups=groups),
            "linear": lambda _: nn.Linear(4, 4),
        }
        layers = {n: makers[kind](groups) for n, (kind, groups, _) in enumerate(steps)}
        self.layers = nn.ModuleDict({str(n): layers[n] for n in order})
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for n, (_, _, residual) in enumerate(self.steps):
            layer = self.layers[str(n)]
            y = F.leaky_relu_(layer(x), 0.3)
            if residual:
                y = layer(y) + x  # the same layer once more
            x = y
        return x


@st.composite
def nets(draw: st.DrawFn) -> Drawn:
    step = st.tuples(st.sampled_from(["conv", "transposed", "linear"]), st.sampled_from([1, 2, 6]), st.booleans())
    steps = draw(st.lists(step, min_size=1, max_size=5))
    return Drawn(steps, draw(st.permutations(range(len(steps)))))


@given(net=nets(), seed=st.integers(0, 99), scale=st.sampled_from([1e-3, 1.0, 50.0]))
@settings(max_examples=25, deadline=None)
def test_on_drawn_nets_all_layers_hold_at_once(net: Drawn, seed: int, scale: float) -> None:
    x = noise(8, 6, 5, 4, seed=seed) * scale
    expected = copy.deepcopy(net)
    lsuv_(expected, x, tol=float("inf"), dropout=False, generator=generator(seed))
    reference.lsuv(expected, (x,))
    report = lsuv_(net, x, dropout=False, generator=generator(seed))
    assert_same_weights(net, expected)
    found = reference.variances(net.eval(), (x,))
    assert [(row.layer, row.piece) for row in report] == list(found)
    assert all(abs(variance - 1) <= 0.02 + 1e-5 for variance in found.values())
