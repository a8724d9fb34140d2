import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.statistics import (
    Cell,
    cells,
    clopper_pearson,
    holm,
    paired,
    pooled,
    prediction_half_width,
    welch,
)
from replicate.store.result import Result

# in %, of 10,000 test images
accuracies = st.lists(st.integers(0, 10_000).map(lambda right: right / 100), min_size=2, max_size=6)


def test_mean_sd_and_interval_by_hand(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell("lsuv", "relu", (90.0, 92.0, 94.0))
    assert cell.mean == 92
    assert cell.sd == 2  # ((-2)² + 0 + 2²) / (3 - 1) = 4
    assert cell.interval is not None
    half = 4.302653 * 2 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert (cell.interval.low, cell.interval.high) == pytest.approx((92 - half, 92 + half))
    assert cell.name == "LSUV × ReLU"


def test_one_run_has_a_mean_and_no_spread(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell("lsuv", "relu", (90.0,))
    assert (cell.mean, cell.sd, cell.interval) == (90, None, None)


@pytest.mark.parametrize(
    ("converged", "not_converged", "diverged", "errors", "nc"),
    [
        (0, 0, 0, 0, False),  # nothing has finished: the cell says nothing yet
        (2, 1, 1, 0, False),  # half of them is not more than half
        (2, 2, 1, 0, True),
        (0, 0, 1, 0, True),
        (1, 0, 0, 4, False),  # a crash says nothing on convergence
    ],
)
def test_a_cell_is_nc_if_more_than_half_of_its_finished_runs_failed(
    make_cell: Callable[..., Cell], converged: int, not_converged: int, diverged: int, errors: int, nc: bool
) -> None:
    failures = {"not_converged": not_converged, "diverged": diverged, "errors": errors}
    cell = make_cell("lsuv", "relu", [90.0] * converged, **failures)
    assert cell.nc is nc
    assert cell.finished == converged + not_converged + diverged
    assert cell.missing == 5 - cell.finished - errors
    assert cell.n == (cell.finished if nc else converged)
    assert (cell.mean is None) == (nc or not converged)


def test_runs_are_grouped_by_all_but_their_seed(small: Experiment, small_results: list[Result]) -> None:
    table = cells(small.runs(), {r.run.run_id: r for r in small_results}, "init", "activation")
    assert [(cell.row, cell.column) for cell in table] == [
        ("lsuv", "maxout"),
        ("lsuv", "relu"),
        ("orthonormal_msra", "relu"),
    ]
    assert [cell.accuracies for cell in table] == [(93.8, 94.0, 94.2), (92.1, 92.3), ()]
    assert [cell.seeds for cell in table] == [(0, 1, 2), (0, 1), ()]
    assert [cell.not_converged for cell in table] == [0, 1, 0]
    assert [cell.diverged for cell in table] == [0, 0, 1]
    assert [cell.missing for cell in table] == [0, 0, 2]


def test_a_cell_that_mixes_settings_is_refused(small: Experiment) -> None:
    runs = small.with_settings({"width": [0.25, 0.5]}).runs()
    with pytest.raises(UsageError, match=r"LSUV × maxout differ in width \(0\.25 and 0\.5\).*--only or --set"):
        cells(runs, {}, "init", "activation")


def test_cells_may_differ_from_each_other(small: Experiment) -> None:
    first, *others = small.runs()
    odd = replace(first, activation="tanh", lr=0.5)
    assert len(cells([first, *others, odd], {}, "init", "activation")) == 4


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


def test_paired_by_hand() -> None:
    found = paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0])  # differences 2, 3, 1: mean 2, standard deviation 1
    half = 4.302653 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert found.value == 2
    assert (found.interval.low, found.interval.high) == pytest.approx((2 - half, 2 + half))
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # closed form of 2 degrees of freedom


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=6))
def test_paired_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = ([side / 100 for side in sides] for sides in zip(*pairs, strict=True))
    assume(len({a - b for a, b in pairs}) > 1)
    ours, theirs = paired(first, second), stats.ttest_rel(first, second)
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_paired_without_spread() -> None:
    assert paired([3.0, 2.0], [2.0, 1.0]).p == 0
    assert paired([3.0, 2.0], [3.0, 2.0]).p == 1
    assert paired([3.0, 2.0], [2.0, 1.0]).interval.low == 1


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
