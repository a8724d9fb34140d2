import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.report.pairs import Pair, difference, page, pair_up, verdict, write_page
from replicate.run import Run
from replicate.store.result import Result

EXACT, LOSSY = "folder:exact", "folder:jpeg"
RUN = Run("lsuv", "tanh", dataset=EXACT, width=0.25, iterations=1000, milestones=(444, 667))


@pytest.fixture
def make_pairs(make_result: Callable[..., Result]) -> Callable[..., tuple[Pair, ...]]:
    """Pairs of seeds 0, 1, … by the accuracies on exact and on lossy images."""

    def make(*both: tuple[float | None, float | None]) -> tuple[Pair, ...]:
        results = [
            make_result(replace(RUN, seed=seed, dataset=name), accuracy)
            for seed, accuracies in enumerate(both)
            for name, accuracy in zip((EXACT, LOSSY), accuracies, strict=True)
        ]
        return pair_up(reversed(results), EXACT, LOSSY)

    return make


def test_difference_by_hand(make_pairs: Callable[..., tuple[Pair, ...]]) -> None:
    found = difference(make_pairs((60.0, 59.0), (62.0, 60.0), (61.0, 58.0)))
    assert found is not None
    assert found.value == -2  # of -1, -2, -3, whose standard deviation is 1
    half = 4.302653 / math.sqrt(3)  # t table, 2 degrees of freedom
    assert (found.interval.low, found.interval.high) == pytest.approx((-2 - half, -2 + half))


def test_pairs_of_which_one_did_not_converge_are_left_out_and_named(
    make_pairs: Callable[..., tuple[Pair, ...]],
) -> None:
    pairs = make_pairs((60.0, 59.0), (10.0, 60.0), (61.0, None), (62.0, 60.0))
    found = difference(pairs)
    assert found is not None
    assert found.value == -1.5
    text = page(pairs, "some images", "a command")
    assert "| 1 | 10.00 n/c | 60.00 | – |" in text
    assert "| 2 | 61.00 | diverged | – |" in text
    assert "| mean of 2 | 61.00 | 59.50 | −1.50 |" in text
    assert "not both runs converged: seed 1, 2." in text


def test_one_pair_says_nothing(make_pairs: Callable[..., tuple[Pair, ...]]) -> None:
    pairs = make_pairs((60.0, 59.0))
    assert difference(pairs) is None
    assert "It takes at least two" in page(pairs, "", "")
    assert "| mean of 0 |  |  | – |" in page(make_pairs((None, 59.0)), "", "")


@pytest.mark.parametrize(
    ("both", "words"),
    [
        (((60.0, 59.0), (61.0, 60.1)), "cost accuracy"),  # -1.0, -0.9
        (((59.0, 60.0), (60.1, 61.0)), "gave the higher accuracy"),
        (((60.0, 59.0), (60.0, 61.0)), "from a cost of 12.71 points to a gain of 12.71"),  # ± 12.706 · √2 / √2
    ],
)
def test_verdict(
    make_pairs: Callable[..., tuple[Pair, ...]], both: tuple[tuple[float, float], ...], words: str
) -> None:
    assert words in verdict(difference(make_pairs(*both)), 2)


def test_page_names_the_cell_the_schedule_and_the_origin(make_pairs: Callable[..., tuple[Pair, ...]]) -> None:
    text = page(make_pairs((60.0, 59.0), (62.0, 60.0)), "matched", "python x.py")
    assert "LSUV × tanh, fitnet4 at width 0.25, bf16-mixed." in text
    assert "1,000 iterations of 128 images, learning rate 0.01, times 0.1 at 444, 667." in text
    assert (
        "cpu; 0.01 hours of runs in all, the last finished on 2026-01-01. Commit: 0123456789ab." in text
    )  # 4 × 12.5 s
    assert "`python x.py`" in text
    assert "- Images: matched" in text


def test_only_finished_runs_that_differ_by_the_data_alone_are_paired(make_result: Callable[..., Result]) -> None:
    lossy = replace(RUN, dataset=LOSSY)
    for other in (
        make_result(lossy, None, "error"),
        make_result(replace(lossy, seed=1), 60.0),
        make_result(replace(lossy, lr=0.1), 60.0),
    ):
        with pytest.raises(UsageError, match="no seed has finished on both folder:exact and folder:jpeg"):
            pair_up([make_result(RUN, 60.0), other], EXACT, LOSSY)


def test_pairs_of_two_cells_are_refused(make_result: Callable[..., Result]) -> None:
    runs = [replace(RUN, dataset=name, lr=lr) for name in (EXACT, LOSSY) for lr in (0.01, 0.02)]
    with pytest.raises(UsageError, match="differ by more than their seed"):
        pair_up([make_result(run, 60.0) for run in runs], EXACT, LOSSY)


def test_the_page_is_written(make_pairs: Callable[..., tuple[Pair, ...]], tmp_path: Path) -> None:
    path = write_page(tmp_path / "new" / "page.md", make_pairs((60.0, 59.0)), "", "")
    assert path.read_text().startswith("# What JPEG costs\n")
