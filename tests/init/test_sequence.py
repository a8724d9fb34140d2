"""Layers that cannot reach unit variance are restored and named, and no weight becomes NaN or infinite."""

import contextlib
import random
import warnings
from collections.abc import Callable

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import noise
from torch import Tensor, nn

from replicate.init import LSUVError, LSUVWarning, lsuv_
from replicate.init.report import SHARED


def two(run: Callable[[Graph, Tensor], Tensor]) -> Graph:
    return Graph(run, first=nn.Linear(4, 4), second=nn.Linear(4, 4))


def scaled(factor: float) -> Graph:
    return two(lambda m, x: m.second(m.first(x) * factor))


def overflowing() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4, eps=0), nn.Linear(4, 1)).half()


def reached_once() -> nn.Module:
    is_first = iter([True])
    return two(lambda m, x: m.second(m.first(x)) if next(is_first, False) else m.first(x))


def caught() -> nn.Module:
    """The second layer fails, and the model catches its exception."""

    def run(m: Graph, x: Tensor) -> Tensor:
        with contextlib.suppress(TypeError):
            x = m.second(m.first(x), x)
        return x

    return two(run)


X, OK = noise(32, 4), "converged"
TINY = (X * 4e-6).half()  # these subnormal numbers require weights of 250,000; the last layer sees what is restored
TROUBLES = {
    "zero": (lambda: scaled(0.0), X, [OK, "restored: zero variance"], "zero variance: second .*dead activations"),
    "inf": (lambda: scaled(float("inf")), X, [OK, "restored: not finite"], "not finite: second"),
    "nan": (lambda: scaled(float("nan")), [X], [OK, "restored: not finite"], "not finite: second"),
    "fresh": (lambda: scaled(0.0), [X], [OK, "restored: zero variance"], "zero variance: second"),
    "one value": (lambda: nn.Linear(4, 1), X[:1], ["restored: a single value"], "a single value: .*larger batch"),
    "float16": (overflowing, TINY, ["restored: weights overflow", OK], "weights overflow: 0"),
    "reached once": (reached_once, [X], [OK, "restored: not reached again"], "not reached again: second"),
    "failing call": (caught, X, [OK, "not reached"], None),
    "failing call, fresh": (caught, [X], [OK, "not reached"], None),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_weights_and_biases_are_restored(name: str) -> None:
    make, batches, statuses, warning = TROUBLES[name]
    torch.manual_seed(0)
    model = make()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    match = f"^LSUV: restored: {warning}[^\n]*$"
    with pytest.warns(LSUVWarning, match=match) if warning else contextlib.nullcontext():
        report = lsuv_(model, batches, dropout=False, max_iter=2)
    assert [row.status for row in report] == statuses
    for row in report:
        assert row.converged == {OK: True, "not reached": None}.get(row.status, False)
        for key, parameter in model.get_submodule(row.layer).named_parameters(row.layer):
            assert torch.equal(parameter, before[key]) == (row.status != OK)
            assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("single", [True, False])
def test_a_slice_is_restored_without_the_others(single: bool) -> None:
    attention = nn.MultiheadAttention(4, 2)
    before = attention.in_proj_weight.detach().clone().chunk(3)
    model = Graph(lambda m, x: m.attention(x, x, 0 * x)[0], attention=attention)
    with pytest.warns(LSUVWarning, match=r"zero variance: attention\.in_proj, attention\.out_proj "):
        report = lsuv_(model, X if single else [X], dropout=False)
    zero = "restored: zero variance"
    assert [row.status for row in report] == [OK, OK, zero, zero]
    for row, ours, old in zip(report, attention.in_proj_weight.chunk(3), before, strict=False):
        assert torch.equal(ours, old) == (row.status == zero)


@pytest.mark.parametrize("strict", [True, False])
def test_an_error_leaves_the_model_as_it_was(strict: bool) -> None:
    model = scaled(0.0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    message = r"LSUV: restored: zero variance: second.*look for dead activations"
    with warnings.catch_warnings():
        warnings.simplefilter("error", LSUVWarning)
        with pytest.raises(LSUVError if strict else LSUVWarning, match=message):
            lsuv_(model, X, strict=strict)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_memory_that_was_never_written_is_not_restored() -> None:
    model = scaled(0.0)
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.warns(LSUVWarning, match="zero variance"):
        lsuv_(model, X)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_layers_that_are_left_out_at_random_are_waited_for() -> None:
    draw = random.Random(1).random
    model = two(lambda m, x: m.second(m.first(x)) if draw() < 0.5 else m.first(x))
    report = lsuv_(model, [noise(64, 4)], average=1)
    assert [(row.order, row.converged) for row in report] == [(1, True), (2, True)]


@pytest.mark.parametrize("single", [True, False])
def test_shared_weights_belong_to_the_first_layer_or_to_the_other_module(single: bool) -> None:
    layers = {"embed": nn.Embedding(11, 6), "twin": nn.Linear(6, 6), "first": nn.Linear(6, 6), "head": nn.Linear(6, 11)}
    model = Graph(lambda m, x: m.head(m.twin(m.first(m.embed(x)).relu())), **layers)
    model.head.weight, model.twin.weight = model.embed.weight, model.first.weight
    x = torch.arange(44).reshape(4, 11) % 11
    before = model.embed.weight.detach().clone()
    report = lsuv_(model, x if single else [x], dropout=False)
    assert [(row.layer, row.status) for row in report] == [("first", OK), ("twin", SHARED), ("head", SHARED)]
    (row,) = lsuv_(model, x, layers="twin")
    assert (row.status, row.converged) == (SHARED, None)
    assert torch.equal(model.embed.weight, before)
