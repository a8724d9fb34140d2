from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.figures import Layout, curves_figure, draw, variance_figure
from replicate.report.protocol import protocol
from replicate.report.series import layer_variances, learning_curves
from replicate.report.statistics import cells
from replicate.results import Records, Result

HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
AXES = ("init", "activation")
MakeRecords = Callable[..., Records]


def report(value: float | None) -> list[dict[str, Any]]:
    return [{"layer": name, "piece": 0, "variance": value} for name in ("conv1", "conv2", "fc1")]


@pytest.fixture
def results(small_results: list[Result]) -> list[Result]:
    return [replace(result, init=report(0.5 if result.run.init == "lsuv" else None)) for result in small_results]


@pytest.fixture
def out(tmp_path: Path, results: list[Result]) -> Path:
    """Curves of two rows for the runs that have an accuracy; the diverged run's holds none."""
    for result in results:
        folder = tmp_path / "runs" / result.run.run_id
        folder.mkdir(parents=True)
        rows = [(45_000, 115.2, 60.0), (90_000, 230.4, result.test_accuracy)] if result.test_accuracy else []
        lines = [f"{iteration},{epoch},0.01,1,50,1,{accuracy}\n" for iteration, epoch, accuracy in rows]
        (folder / "curve.csv").write_text(HEAD + "".join(lines))
    return tmp_path


def layout(experiment: Experiment, results: list[Result]) -> Layout:
    runs = experiment.runs()
    grid = cells(runs, {result.run.run_id: result for result in results}, *AXES)
    rows, columns = experiment.grid["init"], experiment.grid["activation"]
    return Layout(experiment.name, rows, columns, grid, protocol(runs, results, AXES), rows)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends or [found for axes in figure.axes if (found := axes.get_legend())]
    return [text.get_text() for text in found.get_texts()]


def xs(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_xdata(), dtype=float))


def ys(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata(), dtype=float))


def colours(axes: Axes) -> list[str]:
    return [matplotlib.colors.to_hex(line.get_color()) for line in axes.get_lines()]


def test_every_figure_as_png_and_pdf(
    small: Experiment, results: list[Result], out: Path, make_records: MakeRecords
) -> None:
    paths = draw(small, small.runs(), make_records(results), out, out / "figures")
    assert [path.name for path in paths] == [
        *("accuracy.png", "accuracy.pdf", "curves.png", "curves.pdf", "init_variance.png", "init_variance.pdf"),
    ]
    for path in paths:
        if path.suffix == ".png":
            image = imread(path)
            assert image.shape[1] > 800  # 150 dots per inch
            assert np.ptp(image) > 0.9  # from near black to white
        else:
            assert path.read_bytes().startswith(b"%PDF")


def test_the_same_results_give_the_same_bytes(
    small: Experiment, results: list[Result], out: Path, make_records: MakeRecords
) -> None:
    plain = [replace(result, init=[]) for result in results]
    drawn = [draw(small, small.runs(), make_records(plain), out / "none", out / name) for name in ("a", "b")]
    assert [path.name for path in drawn[0]] == ["accuracy.png", "accuracy.pdf"]  # there is nothing for the others
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]


def test_curves_a_panel_a_column(small: Experiment, results: list[Result], out: Path) -> None:
    figure = curves_figure(layout(small, results), learning_curves(results, out, *AXES))
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


def test_chance_is_drawn_only_where_it_is_known(small: Experiment, results: list[Result], out: Path) -> None:
    for classes in (20, None):
        shown = layout(small, results)
        shown = replace(shown, protocol=replace(shown.protocol, classes=classes))
        figure = curves_figure(shown, learning_curves(results, out, *AXES))
        assert ("chance" in legend(figure)) is (classes is not None)
        assert ([5.0, 5.0] in [list(ys(line)) for line in figure.axes[0].get_lines()]) is (classes is not None)


def test_variances_over_layers(small: Experiment, results: list[Result]) -> None:
    figure = variance_figure(layout(small, results), layer_variances(results, *AXES))
    maxout, relu = figure.axes
    target, lsuv = maxout.get_lines()
    assert ys(target) == [1, 1]
    assert ys(lsuv) == pytest.approx([0.5] * 3)
    assert len(relu.get_lines()) == 2  # the other initialisation's variances are not finite
    assert maxout.get_yscale() == "log"
    assert [label.get_text() for label in maxout.get_xticklabels()] == ["conv1", "conv2", "fc1"]
    assert maxout.get_ylabel() == "variance of the pre-activation"
    assert legend(figure) == ["LSUV", "OrthoNorm-MSRA scaled", "1, the target of LSUV"]
    assert figure.get_supxlabel().endswith("left out: 3 that are zero, not finite or not measured")


def test_the_legend_takes_a_free_place(small: Experiment, results: list[Result], out: Path) -> None:
    five = replace(layout(small, results), columns=("maxout", "relu", "vlrelu", "tanh", "sigmoid"))
    figure = curves_figure(five, learning_curves(results, out, *AXES))
    assert len(figure.axes) == 6
    assert figure.axes[5].get_legend() is not None
    assert not figure.axes[5].axison
    assert [axes.get_title() for axes in figure.axes[:5]] == ["maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]


def test_a_row_keeps_its_colour_whatever_else_is_shown(small: Experiment, results: list[Result], out: Path) -> None:
    shown, curves = layout(small, results), learning_curves(results, out, *AXES)
    whole = curves_figure(shown, curves)
    turned = curves_figure(replace(shown, rows=shown.rows[::-1]), curves)
    assert colours(whole.axes[0]) == colours(turned.axes[0])


def test_nothing_finished_and_mixed_data_sets_are_refused(
    small: Experiment, results: list[Result], out: Path, make_records: MakeRecords
) -> None:
    with pytest.raises(UsageError, match="holds no finished run of small"):
        draw(small, small.runs(), make_records([]), out, out / "figures")
    mixed = [replace(results[0], fingerprint="ab" * 32), *results[1:]]
    with pytest.raises(UsageError, match="one data set"):
        draw(small, small.runs(), make_records(mixed), out, out / "figures")
    assert not (out / "figures").exists()
