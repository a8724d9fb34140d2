from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn import legend, texts, xs, ys
from made_up_records import LAYERS, fill

from replicate.experiment import Experiment
from replicate.report.frames import Frames, averaged, read_frames
from replicate.report.line_figures import curves, init_variance, layers, weight_spectra
from replicate.report.panels import Picture
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

Source = tuple[Table, Frames]
MakeRecords = Callable[..., Records]


def drawn(figure: Callable[..., Picture | None], *source: Any) -> Picture:
    picture = figure(*source)
    assert picture is not None
    return picture


@pytest.fixture
def curved(small: Experiment, curve_results: list[Result], curve_out: Path, make_records: MakeRecords) -> Source:
    table = assemble(small, small.runs(), make_records(curve_results))
    return table, read_frames(table, curve_out)


@pytest.fixture
def filled(small: Experiment, tmp_path: Path, make_records: MakeRecords) -> Source:
    table = assemble(small, small.runs(), make_records(fill(tmp_path, small.runs(), points=2)))
    return table, read_frames(table, tmp_path)


def test_curves_in_one_panel_per_column(curved: Source) -> None:
    picture = drawn(curves, *curved)
    maxout, relu = picture.figure.axes
    assert [axes.get_title() for axes in (maxout, relu)] == ["maxout", "ReLU"]
    mean, *steps, chance = maxout.get_lines()
    assert (xs(mean), ys(mean)) == ([45_000, 90_000], pytest.approx([60, 94]))
    (band,) = maxout.collections
    at_end = [y for x, y in band.get_paths()[0].vertices.tolist() if x == 90_000]
    assert (min(at_end), max(at_end)) == (93.8, 94.2)
    assert [xs(step)[0] for step in steps] == [40_000, 60_000, 80_000]
    assert ys(chance) == [10, 10]
    # the other panel also has a thin line of the run at chance, in the same colour
    thin, thick = sorted(relu.get_lines()[:2], key=lambda line: line.get_linewidth())
    assert ys(thick) == pytest.approx([60, 92.2])
    assert ys(thin) == [60, 10]
    assert thin.get_linewidth() < thick.get_linewidth()
    assert thin.get_color() == thick.get_color() == mean.get_color()
    assert [axes.get_ylabel() for axes in (maxout, relu)] == ["test accuracy (%)", ""]
    assert maxout.get_xlabel() == "iteration (one epoch: 390.6)"
    assert legend(picture.figure) == ["LSUV", "OrthoNorm-MSRA scaled", "chance", "learning-rate step"]
    assert picture.notes[1:] == ("No curve: OrthoNorm-MSRA scaled × ReLU (diverged).",)


def test_chance_and_epochs_are_shown_only_where_they_are_known(curved: Source) -> None:
    table, frames = curved
    mixed = replace(frames, curves=frames.curves.assign(epoch=range(1, len(frames.curves) + 1)))
    figure = drawn(curves, replace(table, protocol=replace(table.protocol, classes=None)), mixed).figure
    assert "chance" not in legend(figure)
    assert len(figure.axes[0].get_lines()) == 4
    assert figure.axes[0].get_xlabel() == "iteration"


def test_a_row_keeps_its_look_whatever_else_is_shown(curved: Source) -> None:
    table, frames = curved
    looks = []
    for order in (table.order, table.order[::-1]):
        figure = drawn(curves, replace(table, order=order), frames).figure
        line, key = figure.axes[0].get_lines()[0], figure.legends[0].get_lines()[0]
        assert (line.get_color(), line.is_dashed()) == (key.get_color(), key.is_dashed())
        looks.append((line.get_color(), line.is_dashed()))
    assert looks[0][0] != looks[1][0]
    assert [dashed for _, dashed in looks] == [False, True]


def test_the_legend_takes_a_free_place(curved: Source) -> None:
    table, frames = curved
    figure = drawn(curves, replace(table, columns=("maxout", "relu", "vlrelu", "tanh", "sigmoid")), frames).figure
    assert [axes.get_title() for axes in figure.axes] == ["maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, True, True, True]
    assert [texts(axes) for axes in figure.axes] == [[], [], *[["no values"]] * 3]
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_variances_over_layers(curved: Source) -> None:
    table, frames = curved
    picture = drawn(init_variance, table, frames)
    maxout, relu = picture.figure.axes
    lsuv, target = maxout.get_lines()
    assert ys(target) == [1, 1]
    assert ys(lsuv) == pytest.approx([0.5] * 3)
    assert len(relu.get_lines()) == 2  # the other initialisation's variances are not known
    assert picture.notes[1:] == ("Left out: 3 values (zero, not finite or not measured).",)
    assert maxout.get_yscale() == "log"
    assert maxout.yaxis.get_major_formatter()(0.5) == "0.5"
    assert [label.get_text() for label in maxout.get_xticklabels()] == ["conv1", "conv2", "fc1"]
    assert legend(picture.figure) == ["LSUV", "OrthoNorm-MSRA scaled", "1, the target of LSUV"]
    wide = frames.init_variance.assign(value=[1e-12, *[1.0] * (len(frames.init_variance) - 1)])
    axes = drawn(init_variance, table, replace(frames, init_variance=wide)).figure.axes[0]
    assert axes.yaxis.get_major_formatter()(1e-12) == "10⁻¹²"


def test_layers_at_the_start_and_early(filled: Source) -> None:
    table, frames = filled
    figure = drawn(layers, table, frames, "gradient_norm").figure
    start, _, later, _ = figure.axes
    assert [start.get_title(), later.get_title()] == ["maxout", ""]
    assert start.get_ylabel() == "after initialisation\nL2 norm of the gradient"
    assert later.get_ylabel() == "after 1,000 iterations\nL2 norm of the gradient"
    (line,) = start.get_lines()  # OrthoNorm-MSRA scaled × maxout is a dash
    means = averaged(frames.layers, "quantity", "iteration", "position", geometric=True)
    here = means.query("row == 0 and column == 0 and quantity == 'gradient_norm' and iteration == 0")
    assert xs(line) == list(range(len(LAYERS)))
    assert ys(line) == pytest.approx(here["mean"].to_list())
    assert legend(figure) == ["LSUV", "OrthoNorm-MSRA scaled"]
    short = replace(frames, layers=frames.layers[frames.layers["iteration"] != 1000])
    figure = drawn(layers, table, short, "variance").figure
    assert figure.axes[2].get_ylabel() == "after 90,000 iterations\nvariance"
    assert legend(figure)[-1] == "1, the target of LSUV"


def test_spectra_before_and_after(filled: Source) -> None:
    table, frames = filled
    figure = drawn(weight_spectra, table, frames).figure
    # the first, the middle and the last of 19 layers, two activations
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::2]] == ["conv1", "conv10", "fc2"]
    before, after = figure.axes[0].get_lines()
    assert [before.is_dashed(), after.is_dashed()] == [True, False]
    means = averaged(frames.spectra, "position", "after", "share", geometric=True)
    here = means.query("row == 0 and column == 0 and position == 0")
    assert ys(after) == pytest.approx(here.loc[here["after"], "mean"].to_list())
    assert ys(before) == pytest.approx(here.loc[~here["after"], "mean"].to_list())
    assert legend(figure)[-2:] == ["after initialisation", "at the end"]


def test_long_layer_names_leave_room_for_the_panels(filled: Source) -> None:
    table, frames = filled
    variances = frames.init_variance.assign(layer="encoder.stage." + frames.init_variance["layer"] + ".projection")
    axes = drawn(init_variance, table, replace(frames, init_variance=variances)).figure.axes[0]
    assert axes.get_xticklabels()[0].get_text() == "…ge.conv1.projection"
