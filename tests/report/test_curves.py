from dataclasses import replace
from pathlib import Path

import pytest
from drawn import AXES, colours, layout, legend, xs, ys

from replicate.experiment import Experiment
from replicate.report.curves import curves_figure
from replicate.report.series import learning_curves
from replicate.store.result import Result


def test_curves_a_panel_a_column(small: Experiment, curve_results: list[Result], curve_out: Path) -> None:
    figure = curves_figure(layout(small, curve_results), learning_curves(curve_results, curve_out, *AXES))
    maxout, relu = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["maxout", "ReLU"]
    # three steps of the learning rate, chance, and LSUV's mean
    *steps, chance, mean = maxout.get_lines()
    assert [xs(line)[0] for line in steps] == [40_000, 60_000, 80_000]
    assert ys(chance) == [10, 10]
    assert xs(mean) == [45_000, 90_000]
    assert ys(mean) == pytest.approx([60, 94])
    # in the other panel also a thin line of the run at chance, in the same colour
    *_, both, alone = relu.get_lines()
    assert ys(both) == pytest.approx([60, 92.2])
    assert ys(alone) == [60, 10]
    assert alone.get_linewidth() < both.get_linewidth()
    assert colours(relu)[-1] == colours(relu)[-2] == colours(maxout)[-1]
    assert [text.get_text() for text in relu.texts] == ["no curve:\nOrthoNorm-MSRA scaled (diverged)"]
    assert not maxout.texts
    assert maxout.get_ylabel() == "test accuracy (%)"
    assert maxout.get_xlabel() == "iteration (one epoch: 390.6)"
    assert legend(figure) == ["LSUV", "OrthoNorm-MSRA scaled", "chance", "learning-rate step"]
    assert figure.get_supxlabel().startswith(
        "CIFAR-10, fitnet4 at width 1, 90,000 iterations, bf16-mixed; runs a cell: 1 to 3\n"
    )


def test_chance_is_drawn_only_where_it_is_known(
    small: Experiment, curve_results: list[Result], curve_out: Path
) -> None:
    for classes in (20, None):
        shown = layout(small, curve_results)
        shown = replace(shown, protocol=replace(shown.protocol, classes=classes))
        figure = curves_figure(shown, learning_curves(curve_results, curve_out, *AXES))
        assert ("chance" in legend(figure)) is (classes is not None)
        assert ([5.0, 5.0] in [list(ys(line)) for line in figure.axes[0].get_lines()]) is (classes is not None)


def test_the_legend_takes_a_free_place(small: Experiment, curve_results: list[Result], curve_out: Path) -> None:
    five = replace(layout(small, curve_results), columns=("maxout", "relu", "vlrelu", "tanh", "sigmoid"))
    figure = curves_figure(five, learning_curves(curve_results, curve_out, *AXES))
    assert len(figure.axes) == 6
    assert figure.axes[5].get_legend() is not None
    assert not figure.axes[5].axison
    assert [axes.get_title() for axes in figure.axes[:5]] == ["maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]


def test_a_row_keeps_its_colour_whatever_else_is_shown(
    small: Experiment, curve_results: list[Result], curve_out: Path
) -> None:
    shown, curves = layout(small, curve_results), learning_curves(curve_results, curve_out, *AXES)
    whole = curves_figure(shown, curves)
    turned = curves_figure(replace(shown, rows=shown.rows[::-1]), curves)
    assert colours(whole.axes[0]) == colours(turned.axes[0])
