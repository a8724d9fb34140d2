from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from drawn import layout, legend, xs, ys

from replicate.experiment import Experiment
from replicate.report.strip import ASIDE, strip_figure
from replicate.store.result import Result

PAPER: dict[tuple[Any, Any], Any] = {
    ("lsuv", "maxout"): 93.94,
    ("lsuv", "relu"): 92.11,
    ("orthonormal_msra", "relu"): 91.93,
}


def test_runs_means_intervals_and_the_paper(small: Experiment, small_results: list[Result]) -> None:
    figure = strip_figure(layout(small, small_results), PAPER)
    maxout, relu = figure.axes
    dots, mean, interval, paper = maxout.get_lines()
    assert (xs(dots), ys(dots)) == ([0, 0, 0], [93.8, 94.0, 94.2])
    assert ys(mean) == pytest.approx([94])
    assert ys(interval) == pytest.approx([93.503, 94.497], abs=0.001)  # 94 ± 4.303 · 0.2 / √3
    assert (xs(paper), ys(paper)) == ([ASIDE], [93.94])
    assert [text.get_text() for text in relu.texts] == ["n/c (1/1)"]
    assert len(relu.get_lines()) == 5  # the n/c cell has the paper's number alone
    assert [label.get_text() for label in maxout.get_xticklabels()] == ["LSUV", "OrthoNorm-MSRA scaled"]
    assert legend(figure) == ["a converged run", "mean and its 95 % interval", "paper"]


def test_numbers_that_do_not_compare_stay_away(small: Experiment, make_result: Callable[..., Result]) -> None:
    narrow = small.with_settings({"width": 0.5, "seed": [0]})
    made = [make_result(run, 50.0) for run in narrow.runs()]
    figure = strip_figure(layout(narrow, made), PAPER)
    assert legend(figure) == ["a converged run", "mean and its 95 % interval"]
    assert len(figure.axes[0].get_lines()) == 2  # one run: a dot and the mean, no interval


def test_what_has_not_finished_says_so(small: Experiment, small_results: list[Result]) -> None:
    shown = layout(small, small_results)
    waiting = [replace(cell, accuracies=(), seeds=(), not_converged=0, diverged=0) for cell in shown.cells]
    figure = strip_figure(replace(shown, cells=tuple(waiting)), None)
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["… 0/3"] * 3
