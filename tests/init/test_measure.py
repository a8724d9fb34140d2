"""Estimates from one batch, from several, or from as many as the scatter between them requires."""

import itertools
from collections.abc import Iterable, Iterator

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import noise
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import LSUVWarning, lsuv_
from replicate.init.measure import MAX_BATCHES, moments


def scattered(variances: Iterable[float]) -> Iterator[Tensor]:
    """Yield batches of two values with the given variances, after one that serves to find the layers."""
    for variance in itertools.chain([1.0], variances):
        yield torch.tensor([[-(variance**0.5)], [variance**0.5]], dtype=torch.float64)


def linear() -> nn.Linear:
    return nn.Linear(1, 1, bias=False, dtype=torch.float64)  # an orthonormal 1×1 weight is ±1


@pytest.mark.parametrize(
    ("average", "variances", "passes", "tries"),
    [
        # The released code's loop. Measured 4, so w = 1/2; measured (1/2)²/4 = 1/16, so w = 2; measured 4, so w = 1.
        (1, [4, 0.25, 1, 1, 99], 1 + 4, 3),
        # Measured (1 + 4) / 2 = 2.5, then 1.
        (2, [1, 4, 1, 4, 99], 1 + 2 * 2, 1),
        # The first is off: one batch, and w = 1/2. Of 1 and 1.01 the interval reaches 12.71·0.00707/√2 = 0.064 to each
        # side; with 0.99 it is 4.30·0.01/√3 = 0.025, with another 1 it is 3.18·0.00816/√4 = 0.013.
        (None, [4, 4, 4.04, 3.96, 4, 99], 1 + 1 + 4, 1),
        # A mean that is certainly off needs no more: 1.2, 1.201 is 1.2005 ± 0.0064. Then two equal batches of 1.
        (None, [4, 4.8, 4.804, 4.802, 4.802, 99], 1 + 1 + 2 + 2, 2),
        # A first batch within the tolerance is not enough.
        (None, [1, *[2] * 64], None, 2),
        # A mean that stays uncertain is used after the maximum.
        (None, [1.0, 0.5, 1.5] * 22, 1 + MAX_BATCHES, 0),
    ],
)
def test_fresh_batches_are_added_until_the_mean_is_known(
    average: int | None, variances: list[float], passes: int | None, tries: int
) -> None:
    report = lsuv_(linear(), scattered(variances), average=average, check=0)
    assert passes in (None, report.passes)
    assert (report[0].tries, report[0].status) == (tries, "converged")
    assert report[0].variance_after == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("single", [True, False])
def test_a_function_on_a_weight_counts_as_the_call_of_its_layer(single: bool) -> None:
    first, second = nn.Linear(6, 4), nn.Conv1d(4, 3, 1)

    def run(_: Graph, x: Tensor) -> Tensor:
        return F.conv1d(F.linear(x, first.weight, bias=first.bias).relu_().unsqueeze(2), weight=second.weight)

    model, x = Graph(run, second=second, first=first), noise(32, 6)
    report = lsuv_(model, x if single else [x], dropout=False)
    assert [(row.layer, row.status) for row in report] == [("first", "converged"), ("second", "converged")]
    for values in (x @ first.weight.T, model(x)):
        assert values.var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_layer_that_is_off_on_further_batches_is_named() -> None:
    variances = itertools.chain([4] * 3, itertools.repeat(4.4))
    with pytest.warns(LSUVWarning, match="off on further batches: the model itself .*larger batches"):
        (report,) = lsuv_(linear(), scattered(variances), check=3)
    assert report.variance == pytest.approx(1.1)
    assert (report.converged, report.status) == (False, "off on further batches")


@pytest.mark.parametrize(
    ("values", "variance"),
    [
        (torch.full((1000,), 0.1), 0),  # whatever the rounding
        (torch.tensor([-1e-25, 1e-25]), 1e-50),  # squares outside the range of float32
        (torch.tensor([-1e25, 1e25]), 1e50),
    ],
)
def test_moments(values: Tensor, variance: float) -> None:
    assert moments(values).variance == pytest.approx(variance, rel=1e-6)
