"""Why a layer that was normalised does not have unit variance at the end."""

import itertools
from collections.abc import Callable

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import noise
from torch import Tensor, nn

from replicate.init import LSUVWarning, lsuv_

X = noise(64, 4)


def two(run: Callable[[Graph, Tensor], Tensor]) -> Graph:
    return Graph(run, first=nn.Linear(4, 4), second=nn.Linear(4, 4))


def noisy(m: Graph, x: Tensor) -> Tensor:
    return m.second(m.first(x * (1 + torch.rand(()))))


def cached(m: Graph, x: Tensor) -> Tensor:
    if not hasattr(m, "cache"):
        m.cache = m.first(x)
    return m.second(m.cache)


def counting() -> Callable[[Graph, Tensor], Tensor]:
    numbers = itertools.count(1)
    return lambda m, x: m.second(m.first(x * next(numbers)))


def used_before(m: Graph, x: Tensor) -> Tensor:
    return m.second(m.first((x[:, None] * m.second.weight).sum(-1)) * 30)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (noisy, r"moved again: forward passes are random: first.* \(look for noise"),
        (cached, r"moved again: forward passes differ: first.* \(look for a model that keeps results"),
        (counting(), r"moved again: forward passes differ: first"),
        (used_before, r"moved again: its input has changed: first.* \(a weight of a later layer is used before it"),
    ],
)
def test_the_cause_is_named(run: Callable[[Graph, Tensor], Tensor], message: str) -> None:
    torch.manual_seed(0)
    with pytest.warns(LSUVWarning, match=message):
        report = lsuv_(two(run), X, dropout=False)
    assert (report[0].layer, report[0].converged) == ("first", False)


def test_the_search_for_the_cause_leaves_the_random_streams_as_they_were() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        with pytest.warns(LSUVWarning):
            lsuv_(two(noisy), X, dropout=False, generator=torch.Generator().manual_seed(1))
        states.append(torch.get_rng_state())
    torch.manual_seed(0)
    two(noisy)
    assert all(torch.equal(state, torch.get_rng_state()) for state in states)


def test_in_a_random_model_no_layer_counts_as_converged_by_chance() -> None:
    torch.manual_seed(0)
    model = Graph(
        lambda m, x: m.second(m.first(x) * (1 + 0.3 * torch.randn(()))), first=nn.Linear(4, 4), second=nn.Linear(4, 4)
    )
    with pytest.warns(LSUVWarning, match="moved again"):
        report = lsuv_(model, X, dropout=False)
    assert [row.status for row in report] == ["converged", "moved again: forward passes are random"]
