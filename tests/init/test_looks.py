"""Looks of as many batches as the scatter between them asks for."""

import itertools
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn

from replicate.init import LSUVWarning, lsuv_
from replicate.init.looks import ENOUGH


def spread(variances: Iterable[float]) -> Iterator[Tensor]:
    """Batches of two values with given variances; a first one serves to find the layers."""
    for variance in itertools.chain([1.0], variances):
        yield torch.tensor([[-(variance**0.5)], [variance**0.5]], dtype=torch.float64)


def linear() -> nn.Linear:
    return nn.Linear(1, 1, bias=False, dtype=torch.float64)  # an orthonormal 1×1 weight is ±1


def test_batches_are_added_until_the_mean_is_known() -> None:
    # The first is off: one look, and w = 1/2. Of 1 and 1.01 the interval reaches 12.71·0.00707/√2 = 0.064 to each side;
    # with 0.99 it is 4.30·0.01/√3 = 0.025, with another 1 3.18·0.00816/√4 = 0.013.
    report = lsuv_(linear(), spread([4, 4, 4.04, 3.96, 4, 99]), check=0)
    assert report.passes == 1 + 1 + 4
    assert (report[0].variance_before, report[0].tries, report[0].status) == (4, 1, "converged")
    assert report[0].variance_after == pytest.approx(1)


def test_a_mean_that_is_surely_off_needs_no_further_batches() -> None:
    # 1.2, 1.201: 1.2005 ± 0.0064. Then 4.802/4.802 and so on: two batches alike.
    report = lsuv_(linear(), spread([4, 4.8, 4.804, 4.802, 4.802, 99]), check=0)
    assert report.passes == 1 + 1 + 2 + 2
    assert report[0].tries == 2
    assert report[0].variance_after == pytest.approx(1)


def test_two_batches_alike_settle_it() -> None:
    report = lsuv_(linear(), spread(itertools.repeat(4)), check=0)
    assert report.passes == 1 + 1 + 2


def test_a_first_batch_within_the_margin_is_not_believed() -> None:
    (report,) = lsuv_(linear(), spread(itertools.chain([1], itertools.repeat(2))), check=0)
    assert report.tries >= 1
    assert report.variance_before is not None
    assert report.variance_before > 1.5


def test_a_mean_that_stays_unknown_is_taken_as_it_is() -> None:
    report = lsuv_(linear(), spread(itertools.cycle([1.0, 0.5, 1.5])), check=0)
    assert report.passes == 1 + ENOUGH
    assert (report[0].tries, report[0].variance_after) == (0, pytest.approx(1))


def test_a_layer_that_is_off_on_further_batches_is_named() -> None:
    variances = itertools.chain([4] * 3, itertools.repeat(4.4))
    with pytest.warns(LSUVWarning, match="off on further batches: the model itself .*larger batches"):
        (report,) = lsuv_(linear(), spread(variances), check=3)
    assert report.variance == pytest.approx(1.1)
    assert (report.converged, report.status) == (False, "off on further batches")
