"""Initialisations that look at the whole model, or at data."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from init import reference
from init.zoo import generator, noise, vgg
from torch import Generator, nn

from replicate.init import LSUVError, initialize_, lsuv_
from replicate.names import INITS


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 2))


def unit(model: nn.Module, batches: Iterator[Any], own: Generator) -> None:
    """Draw normal weights; then divide the first layer by the deviation of its output, and shift it to mean 1."""
    for layer in (model[0], model[-1]):
        nn.init.normal_(layer.weight, generator=own)
    output = model[0](next(batches))
    model[0].weight /= output.std(correction=0)
    model[0].bias += 1 - output.mean() / output.std(correction=0)


def state(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in (*model.parameters(), *model.buffers())]


def same(model: nn.Module, before: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, (*model.parameters(), *model.buffers()), before))


def test_it_gets_the_weights_as_built_zero_biases_and_fresh_batches() -> None:
    model, batches = net(), [(noise(64, 4, seed=seed),) for seed in range(4)]
    weights, seen = [model[0].weight.detach().clone(), model[4].weight.detach().clone()], []

    def look(model: nn.Module, batches: Iterator[Any], own: Generator) -> None:
        assert all(map(torch.equal, (model[0].weight, model[4].weight), weights))
        assert not model[0].bias.any()
        assert not model[4].bias.any()
        assert own is given
        assert model.training
        seen.extend(next(batches) for _ in range(2))

    given = generator()
    report = initialize_(model, look, batches, generator=given)
    # The first batch finds the layers, the last one measures them.
    assert all(torch.equal(one, other) for (one,), (other,) in zip(seen, batches[1:3], strict=True))
    assert [(row.layer, row.tries, row.status) for row in report] == [("0", None, None), ("4", None, None)]
    assert not model[4].bias.any()


def test_its_result_is_measured() -> None:
    model, x = net(), 3 * noise(512, 4)
    report = initialize_(model, unit, x, generator=generator(), dropout=False)
    assert [row.variance for row in report] == pytest.approx([*reference.variances(model.eval(), (x,)).values()])
    assert report[0].variance == pytest.approx(1, abs=1e-4)
    assert report[0].mean == pytest.approx(1, abs=1e-4)
    again = net()
    initialize_(again, unit, x, generator=generator(), dropout=False)
    assert torch.equal(again[0].weight, model[0].weight)


def test_everything_else_is_restored() -> None:
    model = net()
    model[4].weight.grad = torch.ones(2, 6)
    buffers, global_stream = [buffer.clone() for buffer in model.buffers()], torch.get_rng_state()

    def careless(model: nn.Module, batches: Iterator[Any], _: Generator) -> None:
        with torch.enable_grad():
            model(next(batches)).sum().backward()
        model[3].running_mean.fill_(7)
        model[0].weight.requires_grad_(False)
        torch.set_float32_matmul_precision("medium")
        model.eval()

    for given in (generator(), generator().manual_seed(5)):
        initialize_(model, careless, noise(64, 4), generator=given)
        assert all(map(torch.equal, model.buffers(), buffers))
        assert torch.equal(torch.get_rng_state(), global_stream)
        assert torch.get_float32_matmul_precision() == "highest"
        assert all(module.training for module in model.modules())
        assert model[0].weight.requires_grad
        assert model[0].weight.grad is None
        assert (model[4].weight.grad == 1).all()


def test_after_an_error_the_model_is_as_before() -> None:
    model = vgg()
    before = state(model)

    def fail(model: nn.Module, batches: Iterator[Any], _: Generator) -> None:
        model(next(batches))
        for parameter in model.parameters():
            parameter.data = torch.zeros(2, dtype=torch.float64)
        del model[0]
        raise ValueError("it fails")

    with pytest.raises(ValueError, match="it fails"):
        initialize_(model, fail, [noise(8, 3, 6, 6)], generator=generator())
    assert same(model, before)


def test_weights_keep_their_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
    places = [(one.data_ptr(), one.stride()) for one in model.parameters()]

    def replace(model: nn.Module, *_: Any) -> None:
        model[0].weight.data = torch.ones(4, 3, 3, 3)

    initialize_(model, replace, noise(2, 3, 6, 6))
    assert (model[0].weight == 1).all()
    assert [(one.data_ptr(), one.stride()) for one in model.parameters()] == places


def slope(model: nn.Module, *_: Any) -> None:
    model[1].weight.fill_(0.1)


def new_parameter(model: nn.Module, *_: Any) -> None:
    model[0].weight = nn.Parameter(torch.ones(6, 4))


def new_layer(model: nn.Module, *_: Any) -> None:
    model[0] = nn.Linear(4, 6)


def in_float64(model: nn.Module, *_: Any) -> None:
    model[0].weight.data = model[0].weight.data.double()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (slope, "slope has changed 1.weight, which is not the weight or bias of a layer to be initialised"),
        (new_parameter, "new_parameter has replaced 0.weight; change weights in place, with copy_ or mul_"),
        (new_layer, "new_layer has replaced 0.weight; "),
        (in_float64, "in_float64 has changed the shape, dtype or device of 0.weight"),
    ],
)
def test_other_changes_are_refused_and_undone(init: Callable[..., None], message: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(LSUVError, match=f"^{message}"):
        initialize_(model, init, noise(64, 4), generator=generator())
    assert same(model, before)


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(LSUVError, match="the first parameter of <lambda> is 'net'; name it model, or shape for a sch"):
        initialize_(net(), lambda net: None, noise(64, 4))
    with pytest.raises(LSUVError, match="the first parameter of <lambda> is None"):
        initialize_(net(), lambda: None, noise(64, 4))


def test_a_name_may_be_that_of_a_model_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INITS, "unit", f"{__name__}:unit")
    by_name, by_function = net(), net()
    for model, init in ((by_name, "unit"), (by_function, unit)):
        initialize_(model, init, noise(64, 4), generator=generator())
    assert torch.equal(by_name[0].weight, by_function[0].weight)
    with pytest.raises(LSUVError, match="unknown pre_init 'unit'"):  # LSUV starts from weights that it draws
        lsuv_(net(), noise(64, 4), pre_init="unit")
