"""experiments/jpeg_pairs.py: which runs are paired, their difference, and the page."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from jpeg_pairs import Pair, difference, page, pair_up, verdict
from workers import record

from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result

EXACT, LOSSY = "folder:exact", "folder:jpeg"
RUN = Run("lsuv", "tanh", dataset=EXACT, width=0.25, iterations=1000, milestones=(444, 667))


def result(run: Run, accuracy: float | None) -> Result:
    """A record of 12.5 s."""
    status = "diverged" if accuracy is None else "converged" if accuracy > 15 else "not_converged"
    return replace(
        record(run, Options(Path()), "a CPU"),
        status=status,
        test_accuracy=accuracy,
        seconds=12.5,
        commit="0123456789abcdef",
    )


def pairs_of(*both: tuple[float | None, float | None]) -> tuple[Pair, ...]:
    """Pairs of seeds 0, 1, … with these accuracies on exact and on lossy images."""
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
    assert found.half == pytest.approx(4.302653 / math.sqrt(3))  # t table, 2 degrees of freedom
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # closed form for 2 degrees of freedom


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


def test_one_pair_is_too_few() -> None:
    pairs = pairs_of((60.0, 59.0))
    assert difference(pairs) is None
    assert "At least two are needed" in page(pairs, "", "")
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


def test_only_finished_runs_that_differ_only_in_the_data_are_paired() -> None:
    lossy = replace(RUN, dataset=LOSSY)
    failed = replace(result(lossy, 60.0), status="error", test_accuracy=None)
    for other in (failed, result(replace(lossy, seed=1), 60.0), result(replace(lossy, lr=0.1), 60.0)):
        with pytest.raises(UsageError, match="no seed has finished on both folder:exact and folder:jpeg"):
            pair_up([result(RUN, 60.0), other], EXACT, LOSSY)


def test_pairs_of_two_cells_are_refused() -> None:
    runs = [replace(RUN, dataset=name, lr=lr) for name in (EXACT, LOSSY) for lr in (0.01, 0.02)]
    with pytest.raises(UsageError, match="differ by more than their seed"):
        pair_up([result(run, 60.0) for run in runs], EXACT, LOSSY)
