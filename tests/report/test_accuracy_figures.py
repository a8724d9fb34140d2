from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from drawn import legend, texts, xs, ys
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from replicate.experiment import Experiment
from replicate.report.accuracy_figures import MEAN_AT, PAPER_AT, heat_map, strip
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

MakeRecords = Callable[..., Records]


@pytest.fixture
def table(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> Table:
    return assemble(small, small.runs(), make_records(small_results))


def narrow(small: Experiment, make_result: Callable[..., Result], make_records: MakeRecords) -> Table:
    """One seed, at half the paper's width."""
    asked = small.with_settings({"width": 0.5, "seed": [0]})
    return assemble(asked, asked.runs(), make_records(make_result(run, 50.0) for run in asked.runs()))


def test_ours_and_the_papers_on_one_scale(table: Table) -> None:
    picture = heat_map(table)
    ours, paper, bar = picture.figure.axes
    assert texts(ours) == ["94.0 ± 0.2\nn=3", "92.2 ± 0.1\nn=2, 1 n/c", "–", "n/c\n1/1\n… 1/3"]
    assert texts(paper) == ["93.94", "92.11", "–", "91.93"]
    assert [axes.get_title() for axes in (ours, paper)] == ["ours", "paper"]
    for axes in (ours, paper):
        mesh = axes.collections[0]
        assert isinstance(mesh, QuadMesh)
        assert mesh.get_clim() == pytest.approx((91.93, 94))
    assert [label.get_text() for label in ours.get_xticklabels()] == ["maxout", "ReLU"]
    assert [label.get_text() for label in ours.get_yticklabels()] == ["LSUV", "OrthoNorm-MSRA scaled"]
    assert bar.get_ylabel() == "test accuracy (%)"
    assert len(picture.notes) == 1  # all cells compare
    patches = [patch for patch in ours.patches if isinstance(patch, Rectangle)]
    assert [(round(patch.get_x()), bool(patch.get_hatch())) for patch in patches] == [(0, False), (1, True)]


def test_another_protocol_is_named(
    small: Experiment, table: Table, make_result: Callable[..., Result], make_records: MakeRecords
) -> None:
    picture = heat_map(narrow(small, make_result, make_records))
    assert picture.figure.axes[1].get_title() == "paper (not comparable)"
    assert picture.notes[1] == "Not comparable with the paper: width 0.5 (paper: 1)."
    place, entry = next(iter(table.entries.items()))
    odd = replace(entry, verdict=replace(entry.verdict, word="not comparable", reason="it is odd"))
    picture = heat_map(replace(table, entries={**table.entries, place: odd}))
    assert picture.figure.axes[1].get_title() == "paper"
    assert picture.notes[1] == "Not comparable with the paper (LSUV × maxout): it is odd."


def test_nothing_but_failures(small: Experiment, make_result: Callable[..., Result], make_records: Any) -> None:
    runs = [run for run in small.runs() if run.init == "orthonormal_msra"]
    table = assemble(small, runs, make_records([make_result(runs[0], None)]))
    figure = heat_map(replace(table, reference=False)).figure
    (axes,) = figure.axes  # there is no colour bar, for there is no colour
    assert texts(axes) == ["n/c\n1/1\n… 1/3"]
    hidden = {place: replace(entry, published=None) for place, entry in table.entries.items()}
    assert strip(replace(table, entries=hidden)).figure.axes[0].get_ylim() == (0, 100)


def test_runs_means_intervals_and_the_paper(table: Table) -> None:
    figure = strip(table).figure
    maxout, relu = figure.axes
    assert maxout.collections[0].get_offsets().tolist() == [[0, 93.8], [0, 94.0], [0, 94.2]]
    mean, interval, paper = maxout.get_lines()
    assert (xs(mean), ys(mean)) == ([MEAN_AT], pytest.approx([94]))
    assert ys(interval) == pytest.approx([93.503, 94.497], abs=0.001)  # 94 ± 4.303 · 0.2 / √3
    assert (xs(paper), ys(paper)) == ([PAPER_AT], [93.94])
    assert texts(relu) == ["n/c (1/1)"]
    assert len(relu.get_lines()) == 4  # the n/c cell has only the paper's number
    assert [label.get_text() for label in maxout.get_xticklabels()] == ["LSUV", "OrthoNorm-MSRA scaled"]
    assert legend(figure) == ["a converged run", "mean and its 95 % interval", "paper"]


def test_numbers_that_do_not_compare_stay_away(
    small: Experiment, make_result: Callable[..., Result], make_records: MakeRecords
) -> None:
    figure = strip(narrow(small, make_result, make_records)).figure
    assert legend(figure) == ["a converged run", "mean and its 95 % interval"]
    assert len(figure.axes[0].get_lines()) == 1  # one run: a mean, and no interval


def test_what_has_not_finished_says_so(small: Experiment, make_records: MakeRecords) -> None:
    figure = strip(assemble(small, small.runs(), make_records([]))).figure
    assert [texts(axes) for axes in figure.axes] == [["… 0/3"], ["… 0/3", "… 0/3"]]
