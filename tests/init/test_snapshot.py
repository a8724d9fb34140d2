"""A model is as it was before after an error, and what was not to be initialised always is."""

from collections.abc import Callable

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import noise
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import lsuv_

X = noise(64, 6)


def two(run: Callable[[Graph, Tensor], Tensor]) -> Graph:
    torch.manual_seed(0)
    return Graph(run, a=nn.Linear(6, 6), b=nn.Linear(6, 6))


class Masked(nn.Linear):
    """Masks its weight in place in each forward pass, as autoregressive convolutions do."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data *= torch.ones(6, 6).tril()
        return super().forward(x)


class Replaced(nn.Linear):
    """Puts another tensor in the place of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = F.normalize(self.weight.data)
        return super().forward(x)


class Merging(nn.Linear):
    """A low-rank adapter that is merged into its frozen weight in evaluation mode."""

    def __init__(self) -> None:
        super().__init__(6, 6)
        self.weight.requires_grad_(False)
        self.down, self.up = nn.Parameter(noise(2, 6, seed=3)), nn.Parameter(noise(6, 2, seed=4))
        self.merged = False

    def train(self, mode: bool = True) -> "Merging":
        if mode == self.merged:
            self.weight.data += (self.up @ self.down) * (-1 if mode else 1)
            self.merged = not mode
        return super().train(mode)


def fail(*_: object) -> None:
    raise ArithmeticError


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_an_adapter_that_is_merged_in_evaluation_mode(single: bool, fails: bool) -> None:
    model = nn.Sequential(Merging(), nn.Linear(6, 6))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if fails:
        model[1].register_forward_hook(fail)
        with pytest.raises(ArithmeticError):
            lsuv_(model, X if single else [X], dropout=False)
    else:
        lsuv_(model, X if single else [X], dropout=False)
    assert not model[0].merged
    assert torch.equal(model[0].weight, before["0.weight"])
    assert torch.equal(model[1].weight, before["1.weight"]) == fails


@pytest.mark.parametrize("single", [True, False])
def test_a_weight_that_the_forward_pass_masks_in_place(single: bool) -> None:
    model = nn.Sequential(Masked(6, 6), nn.ReLU(), Masked(6, 6))
    report = lsuv_(model, X if single else [X], dropout=False)
    assert [row.status for row in report] == ["converged"] * 2
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)
    assert model[0](X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_weight_that_the_forward_pass_replaces() -> None:
    model = nn.Sequential(Replaced(6, 6), nn.Linear(6, 6))
    address, before = model[0].weight.data_ptr(), model[0].weight.detach().clone()
    report = lsuv_(model, X, dropout=False)
    assert {row.layer: row.status for row in report} == {"1": "converged", "0": "left: used by set"}
    assert model[0].weight.data_ptr() == address
    assert torch.equal(model[0].weight, before)


def test_a_shared_bias_and_frozen_parts_after_an_error() -> None:
    model = two(lambda m, x: fail(m.b(m.a(x))))
    model.b.bias = model.a.bias
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ArithmeticError):
        lsuv_(model, X, dropout=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_buffers_that_share_the_memory_of_a_weight_or_are_expanded_or_none() -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        m.late = x.mean(0)
        return m.b(m.a(x) * m.ones)

    model = two(run)
    model.register_buffer("alias", model.a.weight.data)
    model.register_buffer("ones", torch.ones(1).expand(6))
    model.register_buffer("late", None)
    report = lsuv_(model, X, dropout=False)
    assert [row.status for row in report] == ["converged"] * 2
    assert model.late is None
    assert model.a(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)
    assert torch.equal(model.alias, model.a.weight)


def test_a_buffer_that_the_forward_pass_resizes_and_an_expanded_parameter() -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        m.cache.resize_(9).fill_(1)
        return m.b(m.a(x) * m.gain)

    model = two(run)
    model.register_buffer("cache", torch.arange(4.0))
    model.gain = nn.Parameter(torch.full((1,), 0.25).expand(6))
    assert [row.status for row in lsuv_(model, X, dropout=False)] == ["converged"] * 2
    assert model.cache.tolist() == [0, 1, 2, 3]
    assert model.gain.tolist() == [0.25] * 6


def test_a_sparse_buffer_such_as_the_edges_of_a_graph() -> None:
    model = two(lambda m, x: m.b(torch.sparse.mm(m.edges, m.a(x))))
    model.register_buffer("edges", torch.eye(64).to_sparse())
    model.register_buffer("nothing", torch.ones(0))
    assert [row.status for row in lsuv_(model, X, dropout=False)] == ["converged"] * 2
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)
    assert torch.equal(model.edges.to_dense(), torch.eye(64))
