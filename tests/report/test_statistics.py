import math
import random
from math import comb
from statistics import stdev

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from made_up_records import make_cell
from scipy import stats

from replicate.report.statistics import (
    Spread,
    Spreads,
    bartlett,
    clopper_pearson,
    holm,
    mcnemar,
    mean_interval,
    spread_of,
    welch,
)

# in %, of 10,000 test images
accuracies = st.lists(st.integers(0, 10_000).map(lambda right: right / 100), min_size=2, max_size=6)


def test_the_interval_of_a_mean_by_hand() -> None:
    half = 4.302653 * 2 / math.sqrt(3)  # t table, 2 degrees of freedom; standard deviation 2
    assert mean_interval(make_cell("lsuv", "relu", (90.0, 92.0, 94.0))) == pytest.approx((92 - half, 92 + half))
    assert mean_interval(make_cell("lsuv", "relu", (90.0,))) is None
    assert mean_interval(make_cell("lsuv", "relu", (90.0, 92.0), failed=3)) is None


def test_pooled_sd_by_hand() -> None:
    table = [
        make_cell("lsuv", "relu", (90.0, 92.0, 94.0)),  # variance 4, 2 degrees of freedom
        make_cell("xavier", "relu", (0.0, math.sqrt(2))),  # variance 1, 1 degree of freedom
        make_cell("msra", "relu", (50.0,)),
        make_cell("msra", "sigmoid", (50.0, 80.0), failed=3),  # n/c
    ]
    assert Spreads.of(table).pooled == pytest.approx((math.sqrt((2 * 4 + 1 * 1) / 3), 3))
    assert Spreads.of(table[2:]) == Spreads(None, None)


@given(st.lists(accuracies.filter(lambda sample: len({*sample}) > 1), min_size=2, max_size=6))
@example([[0.0, 1.17]] * 3)  # equal spreads: the statistic may be rounded to a negative number
def test_bartlett_agrees_with_scipy(samples: list[list[float]]) -> None:
    spreads = [Spread(stdev(sample), len(sample) - 1) for sample in samples]
    theirs = stats.bartlett(*samples).pvalue
    assert bartlett(spreads) == pytest.approx(1.0 if math.isnan(theirs) else theirs, rel=1e-6, abs=1e-12)


def test_bartlett_without_spread_or_without_cells() -> None:
    assert bartlett([Spread(0.0, 4), Spread(0.1, 4)]) == 0
    assert bartlett([Spread(0.0, 4), Spread(0.0, 4)]) is None
    assert bartlett([Spread(0.1, 4)]) is None


def test_spreads_differ_at_5_percent() -> None:
    assert Spreads(None, 0.06).alike
    assert not Spreads(None, 0.04).alike


def test_cells_that_scatter_alike_are_judged_by_the_pooled_spread() -> None:
    wide = make_cell("lsuv", "relu", (90.0, 92.0, 94.0, 91.0))
    narrow, equal = make_cell("xavier", "relu", (90.0, 90.1, 90.2, 90.15)), make_cell("msra", "relu", (90.0, 90.0))
    alike, unlike = Spreads.of([wide, make_cell("msra", "tanh", (50.0, 51.0, 53.0))]), Spreads.of([wide, narrow])
    assert alike.alike
    assert alike.judging(wide) == alike.pooled != spread_of(wide)
    assert not unlike.alike
    assert unlike.judging(wide) == spread_of(wide)
    assert unlike.judging(make_cell("msra", "relu", (90.0,))) is None
    assert Spreads.of([wide, equal]).p is None  # two runs that agree are no evidence


@given(st.integers(1, 60), st.data())
def test_clopper_pearson_agrees_with_scipy(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    theirs = stats.binomtest(successes, trials).proportion_ci(method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((100 * theirs.low, 100 * theirs.high))


@given(accuracies, accuracies)
def test_welch_agrees_with_scipy(first: list[float], second: list[float]) -> None:
    assume(len({*first}) > 1 and len({*second}) > 1)
    ours = welch(first, second)
    theirs = stats.ttest_ind(first, second, equal_var=False)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-6, abs=1e-9)


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
    assert all(value <= after <= min(1, len(p) * value) for value, after in adjusted.items())
    assert [after for _, after in sorted(adjusted.items())] == sorted(adjusted.values())
    shuffled = chance.sample(p, len(p))
    assert dict(zip(shuffled, holm(shuffled), strict=True)) == adjusted


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_sum_of_both_tails(first: int, second: int) -> None:
    n = first + second
    p = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(first - second)) / 2**n
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p)
