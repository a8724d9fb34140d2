"""experiments/jpeg_pairs.py: which runs are paired, what their difference says, and the page."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jpeg_pairs import Pair, difference, page, pair_up, paired, verdict, write_page
from scipy import stats

from replicate.errors import UsageError
from replicate.run import Run
from replicate.store.result import Result

EXACT, LOSSY = "folder:exact", "folder:jpeg"
RUN = Run("lsuv", "tanh", dataset=EXACT, width=0.25, iterations=1000, milestones=(444, 667))


def result(run: Run, accuracy: float | None, status: str = "") -> Result:
    """A record; without a status, it is that of the accuracy on ten classes."""
    if not status:
        status = "diverged" if accuracy is None else "converged" if accuracy > 15 else "not_converged"
    return Result(
        run,
        status,
        test_accuracy=accuracy,
        seconds=12.5,
        commit="0123456789abcdef",
        versions={},
        device="cpu",
        options={},
        finished="2026-01-01T00:00:00+00:00",
    )


def pairs_of(*both: tuple[float | None, float | None]) -> tuple[Pair, ...]:
    """Pairs of seeds 0, 1, … by the accuracies on exact and on lossy images."""
    results = [
        result(replace(RUN, seed=seed, dataset=name), accuracy)
        for seed, accuracies in enumerate(both)
        for name, accuracy in zip((EXACT, LOSSY), accuracies, strict=True)
    ]
    return pair_up(reversed(results), EXACT, LOSSY)


def test_difference_by_hand() -> None:
    found = difference(pairs_of((60.0, 59.0), (62.0, 60.0), (61.0, 58.0)))
    assert found is not None
    assert found.value == -2  # of -1, -2, -3, whose standard deviation is 1
    half = 4.302653 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert found.half == pytest.approx(half)
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # closed form of 2 degrees of freedom


def test_pairs_of_which_one_did_not_converge_are_left_out_and_named() -> None:
    pairs = pairs_of((60.0, 59.0), (10.0, 60.0), (61.0, None), (62.0, 60.0))
    found = difference(pairs)
    assert found is not None
    assert found.value == -1.5
    text = page(pairs, "some images", "a command")
    assert "| 1 | 10.00 n/c | 60.00 | – |" in text
    assert "| 2 | 61.00 | diverged | – |" in text
    assert "| mean of 2 | 61.00 | 59.50 | −1.50 |" in text
    assert "not both runs converged: seed 1, 2." in text


def test_one_pair_says_nothing() -> None:
    pairs = pairs_of((60.0, 59.0))
    assert difference(pairs) is None
    assert "It takes at least two" in page(pairs, "", "")
    assert "| mean of 0 |  |  | – |" in page(pairs_of((None, 59.0)), "", "")


@pytest.mark.parametrize(
    ("both", "words"),
    [
        (((60.0, 59.0), (61.0, 60.1)), "cost accuracy"),  # -1.0, -0.9
        (((59.0, 60.0), (60.1, 61.0)), "gave the higher accuracy"),
        (((60.0, 59.0), (60.0, 61.0)), "from a cost of 12.71 points to a gain of 12.71"),  # ± 12.706 · √2 / √2
    ],
)
def test_verdict(both: tuple[tuple[float, float], ...], words: str) -> None:
    assert words in verdict(difference(pairs_of(*both)), 2)


def test_page_names_the_cell_the_schedule_and_the_origin() -> None:
    text = page(pairs_of((60.0, 59.0), (62.0, 60.0)), "matched", "python x.py")
    assert "LSUV × tanh, fitnet4 at width 0.25, bf16-mixed." in text
    assert "1,000 iterations of 128 images, learning rate 0.01, times 0.1 at 444, 667." in text
    # 4 × 12.5 s
    assert "cpu; 0.01 hours of runs in all, the last finished on 2026-01-01. Commit: 0123456789ab." in text
    assert "`python x.py`" in text
    assert "- Images: matched" in text


def test_only_finished_runs_that_differ_only_by_the_data_are_paired() -> None:
    lossy = replace(RUN, dataset=LOSSY)
    for other in (
        result(lossy, None, "error"),
        result(replace(lossy, seed=1), 60.0),
        result(replace(lossy, lr=0.1), 60.0),
    ):
        with pytest.raises(UsageError, match="no seed has finished on both folder:exact and folder:jpeg"):
            pair_up([result(RUN, 60.0), other], EXACT, LOSSY)


def test_pairs_of_two_cells_are_refused() -> None:
    runs = [replace(RUN, dataset=name, lr=lr) for name in (EXACT, LOSSY) for lr in (0.01, 0.02)]
    with pytest.raises(UsageError, match="differ by more than their seed"):
        pair_up([result(run, 60.0) for run in runs], EXACT, LOSSY)


def test_the_page_is_written(tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.md", pairs_of((60.0, 59.0)), "", "")
    assert path.read_text().startswith("# What JPEG costs\n")


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), min_size=2, max_size=6))
def test_paired_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = ([side / 100 for side in sides] for sides in zip(*pairs, strict=True))
    assume(len({a - b for a, b in pairs}) > 1)
    ours, theirs = paired(first, second), stats.ttest_rel(first, second)
    low, high = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue, abs=1e-9)
    assert (ours.value - ours.half, ours.value + ours.half) == pytest.approx((low, high), abs=1e-6)


def test_paired_without_spread() -> None:
    assert paired([3.0, 2.0], [2.0, 1.0]).p == 0
    assert paired([3.0, 2.0], [3.0, 2.0]).p == 1
    assert paired([3.0, 2.0], [2.0, 1.0]).half == 0
