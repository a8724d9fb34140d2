from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_records import fill, make_records, make_result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replicate.experiment import Experiment, TableSpec
from replicate.report.charts import read_charts
from replicate.report.document import Document, document
from replicate.report.figures import MEAN_AT, PAPER_AT, draw, strip
from replicate.report.line_figures import curves, layers, line_style, weight_spectra

PLAIN = ["accuracy", "accuracy_by_init", "curves", "cost", "init_variance"]
LAYER_FIGURES = ["layer_variance", "layer_gradient", "weight_spectra"]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts(axes: Axes) -> list[str]:
    """Texts from left to right, from top to bottom."""
    return [text.get_text() for text in sorted(axes.texts, key=lambda text: text.get_position()[::-1])]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [*zip(*line.get_data(), strict=True)]


def line(row: int, y: list[float | None], kind: str = "mean", column: int = 0) -> dict[str, Any]:
    return {"row": row, "column": column, "kind": kind, "label": "", "y": y, "low": y, "high": y}


def test_every_figure_with_a_caption_and_figures_without_data_are_listed(everything: Document, tmp_path: Path) -> None:
    # a label is not a formula
    everything["protocol"]["shown"]["summary"] = r"$\frac{$ 100%"
    lines: list[str] = []
    *whole, captions = draw(everything, tmp_path, tmp_path / "whole", lines.append)
    names = PLAIN + LAYER_FIGURES
    assert [path.name for path in whole] == [f"{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert {path.read_bytes()[:4] for path in whole} == {b"\x89PNG", b"%PDF"}
    assert lines == []
    assert all(f"**{name}.** small: " in captions.read_text() for name in names)
    assert r"$\frac{$ 100%; runs per cell: 0 to 3." in captions.read_text()
    everything["protocol"]["warning"] = "They mean nothing."
    for run in everything["runs"]:
        (tmp_path / "runs" / run["run_id"] / "layers.json").write_text("{")
    *plain, captions = draw(everything, tmp_path, tmp_path / "plain", lines.append)
    # the same results give the same bytes, but for the warning, which a PNG shows
    same = [one.read_bytes() == other.read_bytes() for one, other in zip(plain, whole, strict=False)]
    assert same == [path.suffix == ".pdf" for path in plain]
    assert captions.read_text().count(r". They mean nothing. $\frac{$ 100%") == len(PLAIN)
    assert sum("layers.json: " in text for text in lines) == len(everything["runs"])
    left_out = f"Left out, because no record has data for them: {', '.join(LAYER_FIGURES)}."
    assert lines[-1] == left_out
    assert captions.read_text().endswith(f"\n\n{left_out}\n")


# --- accuracies ----------------------------------------------------------------------------------------------------


def test_numbers_that_do_not_compare_and_none_that_converged(small: Experiment) -> None:
    half = small.with_settings({"width": 0.5, "seed": [0]})
    narrow = document(half, half.runs(), make_records(make_result(run, 50.0) for run in half.runs()))
    figure = strip(narrow).figure
    assert legend(figure) == ["a converged run"]
    (run,) = figure.axes[0].get_lines()  # it has neither a mean nor an interval
    assert points(run) == [(MEAN_AT, 50)]
    chance = make_records(make_result(run, 10.0) for run in half.runs())
    failed = document(replace(half, table=TableSpec()), half.runs(), chance)
    assert [texts(axes) for axes in strip(failed).figure.axes] == [["n/c (1/1)"], ["n/c (1/1)", "n/c (1/1)"]]


def test_runs_means_intervals_and_the_paper(doc: Document) -> None:
    figure = strip(doc).figure
    maxout, relu = figure.axes
    runs, mean, interval, paper = map(points, maxout.get_lines())
    assert runs == [(0, 93.8), (0, 94.0), (0, 94.2)]
    assert mean == [(MEAN_AT, pytest.approx(94))]
    assert [y for _, y in interval] == pytest.approx([93.503, 94.497], abs=0.001)  # 94 ± 4.303 · 0.2 / √3
    assert paper == [(PAPER_AT, 93.94)]
    assert texts(relu) == ["n/c (1/1)"]
    assert relu.texts[0].get_bbox_patch().get_facecolor() == relu.get_facecolor()  # hides the grid behind the text
    assert len(relu.get_lines()) == 5  # the n/c cell has only the paper's number
    assert legend(figure) == ["a converged run", "mean and its 95 % interval", "paper"]
    assert strip(doc).title == "final test accuracy by initialisation"
    assert strip({**doc, "axes": ["lr", "activation"]}).title == "final test accuracy by lr"


# --- lines ---------------------------------------------------------------------------------------------------------


def test_curves_in_one_panel_per_column(doc: Document) -> None:
    lines = [line(0, [60, 94]), line(0, [60, 92], column=1), line(0, [60, None], "failed", 1), line(1, [5, 5], "run")]
    picture = curves(doc, {"label": "test accuracy (%)", "x": [45_000, 90_000], "lines": lines})
    maxout, relu = picture.figure.axes
    mean, *steps, chance = maxout.get_lines()
    assert points(mean) == [(45_000, 60), (90_000, 94)]
    assert [step.get_xdata()[0] for step in steps] == [40_000, 60_000, 80_000]
    assert [y for _, y in points(chance)] == [10, 10]
    # the other panel also has a thin line of the run at chance, in the same colour
    thick, thin = relu.get_lines()[:2]
    assert (points(thin), thin.get_marker()) == ([(45_000, 60)], "o")  # a single point makes no line
    assert thin.get_linewidth() < thick.get_linewidth()
    assert thin.get_color() == thick.get_color() == mean.get_color()
    assert legend(picture.figure) == ["LSUV", "OrthoNorm-MSRA scaled", "chance", "learning-rate step"]
    assert picture.notes[1:] == ("No curve: OrthoNorm-MSRA scaled × ReLU.",)


def test_the_legend_takes_a_free_place(doc: Document) -> None:
    names = ["maxout", "relu", "vlrelu", "tanh", "sigmoid"]
    doc = {**doc, "columns": [{"title": name} for name in names]}
    figure = curves(doc, {"label": "", "x": [1, 2], "lines": [line(0, [60, 94])]}).figure
    assert [axes.get_title() for axes in figure.axes] == names
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, False, True, True, True]
    assert not overlaps_the_panels(figure)
    # with a third line of panels
    titles = {
        axis: [{"title": name} for name in names] for axis, names in (("columns", "abcdefg"), ("rows", "123456789"))
    }
    many = {**doc, **titles}
    assert not overlaps_the_panels(curves(many, {"label": "", "x": [1, 2], "lines": [line(0, [60, 94])]}).figure)


def overlaps_the_panels(figure: Figure) -> bool:
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    return any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


def test_an_axis_within_one_power_of_ten_has_several_numbers(doc: Document) -> None:
    chart = {"label": "", "x": ["conv1", "fc1"], "lines": [line(1, [0.9, 1.2])]}
    maxout, _ = layers(doc, {0: chart}, "title", "variance").figure.axes
    bottom, top = maxout.get_ylim()
    visible = [tick for tick in maxout.get_yticks() if bottom <= tick <= top]
    assert 1 in visible
    assert len(visible) > 2


@pytest.mark.parametrize(
    ("lowest", "shown"), [(0.5, "0.5"), (1e-12, "1e-12"), (1e-15, "1e-14")]
)  # powers of ten are too few for 0.5 to 1
def test_layers_on_a_narrow_and_a_wide_axis(doc: Document, lowest: float, shown: str) -> None:
    chart = {"label": "", "x": ["conv1", "fc1"], "lines": [line(1, [lowest, 1])]}
    picture = layers(doc, {0: chart}, "title", "variance")
    maxout, _ = picture.figure.axes
    variance, target = map(points, maxout.get_lines())
    assert variance == [(0, lowest), (1, 1)]
    assert [y for _, y in target] == [1, 1]
    ticks, labels = maxout.get_yticks(), [label.get_text() for label in maxout.get_yticklabels()]
    bottom, top = maxout.get_ylim()
    visible = [label for tick, label in zip(ticks, labels, strict=True) if bottom <= tick <= top]
    assert (visible[0], visible[-1]) == (shown, "1")
    assert legend(picture.figure)[-1] == "1, the target of LSUV"


def test_of_many_layers_some_are_named(doc: Document) -> None:
    names = [f"conv{number}" for number in range(1, 86)]
    chart = {"label": "", "x": names, "lines": [line(1, [1.0] * 85)]}
    maxout, _ = layers(doc, {0: chart}, "title", "variance").figure.axes
    assert [label.get_text() for label in maxout.get_xticklabels()] == names[::3]
    assert len(maxout.get_lines()[0].get_xdata()) == 85


def test_layers_and_spectra_at_the_start_and_later(small: Experiment, tmp_path: Path) -> None:
    doc = document(small, small.runs(), make_records(fill(tmp_path, small.runs(), points=3)))
    charts = read_charts(doc, tmp_path)
    gradients = charts["layers"]["gradient_norm"]
    figure = layers(doc, gradients, "title", "gradient", target=None).figure
    labels = ["after initialisation\ngradient", "after 1,000 iterations\ngradient"]
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == labels
    (drawn,) = figure.axes[0].get_lines()  # OrthoNorm-MSRA scaled × maxout is a dash
    assert points(drawn) == [*enumerate(gradients[0]["lines"][0]["y"])]
    del gradients[1000]
    assert layers(doc, gradients, "", "").figure.axes[2].get_ylabel().startswith("after 90,000 iterations")
    figure = weight_spectra(doc, charts["spectra"]).figure
    # the first, the middle and the last of 19 layers, two activations
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::2]] == ["conv1", "conv10", "fc2"]
    before, after = figure.axes[0].get_lines()
    assert [before.is_dashed(), after.is_dashed()] == [True, False]
    spectra = [chart["lines"][0]["y"] for chart in charts["spectra"]["conv1"]]
    assert [[*one.get_ydata()] for one in (before, after)] == spectra


def test_many_rows_have_different_lines() -> None:
    looks = [(*look["color"], str(look["linestyle"])) for look in map(line_style, range(50))]
    assert len(set(looks)) == 50
