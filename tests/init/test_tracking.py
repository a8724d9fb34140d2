"""What forward passes may do while they are watched: autocast, checkpointing, exceptions, module hooks."""

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import generator, noise
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.utils.checkpoint import checkpoint

from replicate.init import LSUVWarning, lsuv_

X = noise(256, 8)


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("where", ["forward", "model", "around", "forward, with copies"])
def test_autocast_does_not_measure_old_copies_of_weights(where: str, single: bool) -> None:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        copies = True if "copies" in where else None
        with torch.autocast("cpu", torch.bfloat16, enabled=where != "around", cache_enabled=copies):
            return model(x)

    model = perceptron()
    plain = Graph(lambda m, x: run(m.model, x), model=model) if where == "model" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=where == "around"):
        model(X)  # fills the cache of an autocast around the call
        report = lsuv_(plain, X if single else [X], forward=None if where == "model" else run, dropout=False)
        assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.04)  # with the present weights
    assert [row.converged for row in report] == [True, True]
    assert max(row.tries for row in report) <= 2
    first = model[0](X)
    assert first.var(correction=0).item() == pytest.approx(1, abs=0.03)
    assert model[2](first.relu()).var(correction=0).item() == pytest.approx(1, abs=0.04)


def test_checkpointed_and_scripted_parts() -> None:
    model = perceptron()
    whole = Graph(lambda m, x: checkpoint(m.model, x, use_reentrant=False), model=model)
    assert [row.layer for row in lsuv_(whole, X, dropout=False)] == ["model.0", "model.2"]


@pytest.mark.parametrize("single", [True, False])
def test_an_interrupt_leaves_the_model_and_the_hooks_as_they_were(single: bool) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    model = perceptron()
    model[2].register_forward_hook(interrupt)
    before = [value.clone() for value in model.state_dict().values()]
    hooks = [len(modules._global_forward_hooks), len(modules._global_forward_pre_hooks)]
    with pytest.raises(KeyboardInterrupt):
        lsuv_(model, X if single else [X], dropout=False)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before, strict=True))
    assert hooks == [len(modules._global_forward_hooks), len(modules._global_forward_pre_hooks)]


def test_hooks_of_users_see_the_present_weights() -> None:
    model, seen = perceptron(), []
    model[0].register_forward_hook(lambda _m, _x, output: seen.append(output.var(correction=0).item()))
    lsuv_(model, X, dropout=False, generator=generator())
    assert seen == pytest.approx([1, 1], abs=0.0201)


def test_modules_of_other_threads_are_left_alone() -> None:
    inside, go_on, errors = threading.Event(), threading.Event(), []

    def slow(_m: Graph, x: Tensor) -> Tensor:
        inside.set()
        go_on.wait(10)
        return x

    def other() -> None:
        try:
            Graph(slow)(X)
        except IndexError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    model = perceptron()

    def let_it_finish(*_: object) -> None:
        go_on.set()
        thread.join()

    model[2].register_forward_pre_hook(let_it_finish)
    assert [row.status for row in lsuv_(model, X, dropout=False)] == ["converged"] * 2
    assert not errors


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[:2].zero_(),
        lambda w: w.view(-1)[:9].fill_(0),
        lambda w: w.data.mul_(3),
        lambda w: nn.functional.relu(w, inplace=True),
        lambda w: w.__setitem__(0, 0.0),
    ],
)
def test_a_computed_weight_that_is_changed_in_place_is_measured_as_it_is_applied(
    change: Callable[[Tensor], object], single: bool
) -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        weight = m.a.weight.clone()
        change(weight)
        return nn.functional.linear(x, weight)

    model = Graph(run, a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    whole = Graph(lambda m, x: m.b(m.model(x)), model=model, b=nn.Linear(8, 8))
    before = model.a.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(whole, X if single else [X], dropout=False)
    row = next(row for row in report if row.layer == "model.a")
    if row.status == "converged":
        assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)
    else:
        assert (row.status or "").startswith("left: ")
        assert torch.equal(model.a.weight, before)


@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")
def test_long_computations_of_a_weight_cost_no_more_than_forward_passes() -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        weight = m.a.weight / m.a.weight.norm()
        for _ in range(30):
            weight = 1.5 * weight - 0.5 * weight @ weight.T @ weight
        return nn.functional.linear(x, weight)

    report = lsuv_(Graph(run, a=nn.Linear(8, 8)), X, dropout=False)
    assert report[0].status == "restored: scale has no effect"
    assert report.passes < 10
