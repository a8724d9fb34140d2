"""Cells, totals and lengths of time in words."""

from dataclasses import replace

import pytest

from replicate.live.board import Board, CellProgress
from replicate.live.words import cell_lines, duration, legend, totals

NOTHING = CellProgress(5, (), (), 0, 0, 0, here=(), elsewhere=())
ONE = replace(NOTHING, expected=1)


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        (NOTHING, ["0/5"]),
        (replace(NOTHING, accuracies=(92.0, 92.2, 92.1)), ["3/5 92.1 %"]),
        (
            replace(NOTHING, accuracies=(92.0,), here=(0.25, 0.75), elsewhere=(0.1,)),
            ["1/5 92.0 %", "▸×2 50 %", "▹ 10 %"],
        ),
        (replace(NOTHING, here=(0.411,)), ["0/5 ▸ 41 %"]),
        (replace(NOTHING, errors=2), ["0/5 2 errors"]),
        (replace(NOTHING, here=(0.0,), errors=1), ["0/5 ▸ 0 %", "1 error"]),
        (replace(NOTHING, accuracies=(90.0, 91.0), not_converged=1, diverged=1), ["4/5 90.5 %", "1 n/c", "1 diverged"]),
        (replace(NOTHING, accuracies=(90.0,), not_converged=1, diverged=1), ["3/5 n/c"]),
        (replace(NOTHING, diverged=2), ["2/5 diverged"]),
        (ONE, ["waiting"]),
        (replace(ONE, here=(0.999,)), ["▸ 100 %"]),
        (replace(ONE, elsewhere=(0.5,)), ["▹ 50 %"]),
        (replace(ONE, accuracies=(92.34,)), ["92.3 %"]),
        (replace(ONE, not_converged=1), ["n/c"]),
        (replace(ONE, diverged=1), ["diverged"]),
        (replace(ONE, errors=1), ["error"]),
    ],
)
def test_a_cell(cell: CellProgress, lines: list[str]) -> None:
    assert [text for text, _ in cell_lines(cell)] == lines


def test_states_differ_without_their_colour() -> None:
    states = ({}, {"accuracies": (90.0,)}, {"not_converged": 1}, {"diverged": 1}, {"errors": 1}, {"here": (0.9,)})
    shown = [cell_lines(replace(ONE, **state))[0][0] for state in (*states, {"elsewhere": (0.9,)})]
    assert len(set(shown)) == len(shown)


def board(whole: CellProgress, speed: float | None = None, left: float | None = None) -> Board:
    return Board(("lsuv",), ("relu",), {("lsuv", "relu"): whole}, whole, (), speed, left)


def test_totals() -> None:
    many = CellProgress(115, (0,) * 40, (90.0,) * 40, 2, 1, 1, here=(0.1,) * 6, elsewhere=(0.1,) * 2)
    assert totals(board(many)) == "115 runs: 43 done, 1 error, 8 running, 63 waiting"
    said = totals(board(many, 32_400.4, 51_600))
    assert said == "115 runs: 43 done, 1 error, 8 running, 63 waiting; 32,400 images/s; 14 h 20 min left"
    assert totals(board(ONE)) == "1 run: 0 done, 1 waiting"


def test_the_legend_explains_what_is_there() -> None:
    assert legend(board(ONE)) == "%: test accuracy"
    assert legend(board(replace(ONE, here=(0.1,)))) == "▸ running: how far; %: test accuracy"
    elsewhere = replace(ONE, elsewhere=(0.1,))
    assert legend(board(elsewhere)) == "▹ running by another command: how far; %: test accuracy"
    both = replace(NOTHING, here=(0.5,), elsewhere=(0.1,))
    text = "▸ running, ▹ by another command: how far; 3/5: done; %: mean test accuracy"
    assert len(text) <= 80
    assert legend(board(both)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (5_910, "98 min"),
        (6_000, "1 h 40 min"),
        (35.9 * 3600, "35 h 54 min"),
        (36 * 3600, "1 d 12 h"),
        (100 * 3600, "4 d 4 h"),
    ],
)
def test_a_length_of_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text
