"""Which layers only gate other values, and what counts as the activation of a layer."""

from collections.abc import Callable

import pytest
import torch
import torchvision.models as tv
from compare_lsuv_cases import Graph
from init.zoo import noise, transformer
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import LSUVWarning, lsuv_, measure
from replicate.nn.activations import MAXOUT
from replicate.nn.fitnet import FITNET4, build

X = noise(32, 6, 8)
LAYERS = {name: nn.Linear(8, 8) for name in "abc"}


def gated(run: Callable[[Graph, Tensor], Tensor]) -> set[str]:
    """The layers among a, b and c that only gate others."""
    return {row.layer for row in measure(Graph(run, **LAYERS), X, dropout=False) if row.gates}


@pytest.mark.parametrize(
    ("run", "names"),
    [
        # Squeeze and excitation: only the last layer of the branch gates
        (lambda m, x: m.c(x * torch.sigmoid(m.b(m.a(x.mean(1)).relu()))[:, None]), {"b"}),
        (lambda m, x: m.a(x).mul_(F.hardsigmoid(m.b(x.mean(1, keepdim=True))).expand(-1, 6, -1)), {"b"}),
        # Attention, whatever its form
        (lambda m, x: F.scaled_dot_product_attention(m.a(x)[:, None], m.b(x)[:, None], m.c(x)[:, None]), {"a", "b"}),
        (
            lambda m, x: (
                F.dropout(
                    torch.softmax(((m.a(x) * 8**-0.5) @ m.b(x).mT / 2).masked_fill(torch.eye(6) > 0, -9e9), -1),
                    0.1,
                    False,
                )
                @ m.c(x)
            ),
            {"a", "b"},
        ),
        (
            lambda m, x: torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", m.a(x), m.b(x)).softmax(-1), x),
            {"a", "b"},
        ),
        # A router of experts
        (lambda m, x: m.b(x) * m.a(x).softmax(-1).topk(2).values.sum(-1, keepdim=True), {"a"}),
        # Experts that are chosen by the router, before its softmax
        (
            lambda m, x: (
                torch.stack([m.b(x), m.c(x)], -1)[..., (top := m.a(x).topk(2, -1)).indices[0, 0] % 2].sum(-1)
                * top.values.softmax(-1)[..., :1]
            ),
            {"a"},
        ),
        # Rotary positions
        (
            lambda m, x: F.scaled_dot_product_attention(
                *(
                    (q := layer(x)) * x.cos() + torch.cat([-q[..., 4:], q[..., :4]], -1) * x.sin()
                    for layer in (m.a, m.b)
                ),
                m.c(x),
            ),
            {"a", "b"},
        ),
        # A cell that is written by hand, and a gate that is computed in place
        (lambda m, x: m.c(x).tanh() * torch.sigmoid(m.a(x) + m.b(x.flip(0))), {"a", "b"}),
        (lambda m, x: m.c(x * F.hardsigmoid(m.b(m.a(x).relu_()), inplace=True)), {"b"}),
        # Not gates: softmax as the output of the model, a gate that is also used otherwise, a gated unit, a residual
        (lambda m, x: m.b(m.a(x).relu()).softmax(-1), set()),
        (lambda m, x: m.c(x * torch.sigmoid(a := m.a(x)) + a), set()),
        (lambda m, x: m.c(F.silu(m.a(x)) * m.b(x)), set()),
        (lambda m, x: m.b(torch.sigmoid(m.a(x))), set()),
        (lambda m, x: x + m.b(x + m.a(x).tanh()), set()),
    ],
)
def test_layers_that_only_gate_others(run: Callable[[Graph, Tensor], Tensor], names: set[str]) -> None:
    assert gated(run) == names


def test_gates_of_known_networks() -> None:
    report = measure(tv.mobilenet_v3_small(), noise(4, 3, 64, 64), dropout=False)
    assert {row.layer for row in report if row.gates} == {r.layer for r in report if r.layer.endswith(".fc2")}
    attention = measure(transformer(), noise(8, 6, 5), dropout=False)
    gates = [(row.layer.rpartition(".")[2], row.piece) for row in attention if row.gates]
    assert gates == [("in_proj", 0), ("in_proj", 1)] * 2
    recurrent = measure(nn.LSTM(8, 4), X, dropout=False)
    assert [row.piece for row in recurrent if row.gates and "_ih_" in row.layer] == [0, 1, 3]


ACTIVATED = {
    "relu": lambda m, x: m.b(m.a(x).relu()),
    "in place, after a view": lambda m, x: m.b(F.relu(m.a(x).flatten(1), inplace=True).view_as(x)),
    "after a bias and a constant factor": lambda m, x: m.b(F.gelu(2 * m.a(x) + m.c.bias)),
    "after an addition in place": lambda m, x: m.b(F.relu(m.a(x).add_(m.c.bias))),
    "sigmoid": lambda m, x: m.b(torch.sigmoid(m.a(x))),
}


@pytest.mark.parametrize("name", ACTIVATED)
@pytest.mark.parametrize("single", [True, False])
def test_the_variance_after_the_activation(name: str, single: bool) -> None:
    seen: list[Tensor] = []
    model = Graph(ACTIVATED[name], **{name: nn.Linear(8, 8) for name in "abc"})
    std = 0.2 if name == "sigmoid" else 1.0
    first, second, *_ = lsuv_(model, X if single else [X], where="activation", std=std, dropout=False, check=1)
    model.b.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    output = model(X)
    assert (first.status, second.status) == ("converged", "converged")
    assert seen[0].var(correction=0).item() == pytest.approx(std**2, rel=0.0201)
    assert output.var(correction=0).item() == pytest.approx(std**2, rel=0.0201)  # nothing follows the second layer
    assert measure(model, X, dropout=False, where="activation")[0].variance == pytest.approx(std**2, rel=0.0201)
    assert measure(model, X, dropout=False)[0].variance == pytest.approx(model.a(X).var(correction=0).item())


def test_the_pieces_of_a_maxout_layer_share_their_activation() -> None:
    x = noise(16, 3, 32, 32)
    model = build(FITNET4, MAXOUT, width=0.125)
    report = lsuv_(model, x, where="activation", dropout=False)
    assert {row.status for row in report} == {"converged"}
    assert len(report) == len(lsuv_(model, x, dropout=False))


@pytest.mark.parametrize("add", [lambda y, x: y + x, lambda y, x: y.add_(x)])
def test_an_activation_of_a_sum_is_not_that_of_a_layer(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Graph(lambda m, x: F.relu(add(m.b(y := m.a(x)), y)), a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    report = lsuv_(model, X, where="activation", dropout=False)
    assert [row.status for row in report] == ["converged"] * 2
    assert model.b(model.a(X)).var(correction=0).item() == pytest.approx(1, abs=0.0201)


@pytest.mark.parametrize("activation", [torch.tanh, torch.sigmoid])
def test_a_target_that_the_activation_cannot_reach_restores_the_weights(
    activation: Callable[[Tensor], Tensor],
) -> None:
    model = Graph(lambda m, x: activation(m.a(x)), a=nn.Linear(8, 8))
    before = model.a.weight.detach().clone()
    with pytest.warns(LSUVWarning, match="restored: "):
        lsuv_(model, X, where="activation", std=3.0, dropout=False)
    assert torch.equal(model.a.weight, before)
