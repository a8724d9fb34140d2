import math
import random
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from replicate.report.cell import Cell
from replicate.report.statistics import (
    clopper_pearson,
    holm,
    mean_interval,
    pooled,
    prediction_half_width,
    welch,
)

# in %, of 10,000 test images
accuracies = st.lists(st.integers(0, 10_000).map(lambda right: right / 100), min_size=2, max_size=6)


def test_the_interval_of_a_mean_by_hand(make_cell: Callable[..., Cell]) -> None:
    half = 4.302653 * 2 / math.sqrt(3)  # t table, 2 degrees of freedom; standard deviation 2
    assert mean_interval(make_cell("lsuv", "relu", (90.0, 92.0, 94.0))) == pytest.approx((92 - half, 92 + half))
    assert mean_interval(make_cell("lsuv", "relu", (90.0,))) is None
    assert mean_interval(make_cell("lsuv", "relu", (90.0, 92.0), diverged=3)) is None


def test_pooled_sd_by_hand(make_cell: Callable[..., Cell]) -> None:
    table = [
        make_cell("lsuv", "relu", (90.0, 92.0, 94.0)),  # variance 4, 2 degrees of freedom
        make_cell("xavier", "relu", (0.0, math.sqrt(2))),  # variance 1, 1 degree of freedom
        make_cell("msra", "relu", (50.0,)),
        make_cell("msra", "sigmoid", (50.0, 80.0), not_converged=3),  # n/c
    ]
    spread = pooled(table)
    assert spread is not None
    assert (spread.sd, spread.df) == pytest.approx((math.sqrt((2 * 4 + 1 * 1) / 3), 3))
    # t table: 3.182446 at 3 degrees of freedom; √3 · √(1 + 1/3) = 2
    assert prediction_half_width(spread, 3) == pytest.approx(3.182446 * 2)
    assert pooled(table[2:]) is None


@given(st.integers(1, 60), st.data())
def test_clopper_pearson_agrees_with_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    ours = clopper_pearson(successes, trials)
    theirs = stats.binomtest(successes, trials).proportion_ci(method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_clopper_pearson_of_no_success_by_hand() -> None:
    assert clopper_pearson(0, 5).low == 0
    assert clopper_pearson(0, 5).high == pytest.approx(1 - 0.025 ** (1 / 5))


@given(accuracies, accuracies)
def test_welch_agrees_with_scipy(first: list[float], second: list[float]) -> None:
    assume(len({*first}) > 1 and len({*second}) > 1)
    ours = welch(first, second)
    theirs = stats.ttest_ind(first, second, equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


@given(accuracies, accuracies)
def test_welch_is_antisymmetric(first: list[float], second: list[float]) -> None:
    there, back = welch(first, second), welch(second, first)
    assert (there.value, there.interval.low, there.p) == (-back.value, -back.interval.high, back.p)


def test_welch_without_spread() -> None:
    assert welch([3.0, 3.0], [1.0, 1.0]).p == 0
    assert welch([3.0, 3.0], [3.0, 3.0]).p == 1
    assert welch([3.0, 3.0], [1.0, 1.0]).interval.low == 2


def test_holm_by_hand() -> None:
    # sorted: 0.01 · 3, 0.03 · 2, and 0.04 · 1 is raised to its predecessor's
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_is_between_no_correction_and_bonferroni_and_forgets_order(p: list[float], chance: random.Random) -> None:
    adjusted = dict(zip(p, holm(p), strict=True))
    for value, after in adjusted.items():
        assert value <= after <= min(1, len(p) * value)
    ordered = sorted(adjusted.items())
    assert [after for _, after in ordered] == sorted(adjusted.values())
    shuffled = chance.sample(p, len(p))
    assert dict(zip(shuffled, holm(shuffled), strict=True)) == adjusted
