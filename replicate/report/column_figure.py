"""A figure of everything that depends on a column that is a number, such as a batch size or the depth of a net."""

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from replicate.report.charts import Chart
from replicate.report.document import Document, places
from replicate.report.line_figures import LEGEND, LEVEL_LINE, Picture, line_style, make_logarithmic, row_keys

MIN_COLUMNS = 3
DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3, "markeredgewidth": 0, "alpha": 0.5}


def by_column(doc: Document, variances: Chart | None) -> Picture | None:
    """Draw accuracy, share of converged runs, and variance after initialisation against the table's columns.

    Args:
        doc: of the table.
        variances: of the layers after initialisation, on training images; None if they were not measured.

    Returns:
        None unless at least three columns are different numbers. Models count by their weight layers.
    """
    x = _numbers(doc)
    if x is None:
        return None
    figure = Figure(figsize=(9.6 + LEGEND, 3.6), layout="constrained")
    accuracy, share, variance = figure.subplots(1, 3, sharex=True)
    for row in range(len(doc["rows"])):
        look = line_style(row, markers=True)
        cells = doc["cells"][row * len(x) : (row + 1) * len(x)]
        for at, cell in zip(x, cells, strict=True):
            accuracy.plot([at] * len(cell["accuracies"]), cell["accuracies"], **DOT, color=look["color"])
        _line(accuracy, x, [cell["mean"] for cell in cells], look)
        _line(
            share, x, [100 * cell["converged"] / cell["finished"] if cell["finished"] else None for cell in cells], look
        )
        measured = {line["column"]: line for line in (variances or {"lines": []})["lines"] if line["row"] == row}
        layers = [[y for y in measured[column]["y"] if y] if column in measured else [] for column in range(len(x))]
        _line(variance, x, [geometric_mean(one) if one else None for one in layers], look)
        band = sorted((at, min(one), max(one)) for at, one in zip(x, layers, strict=True) if one)
        if band:
            variance.fill_between(*zip(*band, strict=True), color=look["color"], alpha=0.12, linewidth=0)
    name = "weight layers" if doc["axes"][1] == "model" else doc["axes"][1].replace("_", " ")
    for axes in (accuracy, share, variance):
        axes.set_xlabel(name)
        if min(x) > 0 and max(x) >= 10 * min(x):
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted(x)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    accuracy.set_title("test accuracy (%)")
    share.set(title="converged runs (%)", ylim=(-4, 104))
    variance.set_title("variance of the layers")
    variance.axhline(1, zorder=1, **LEVEL_LINE)
    make_logarithmic(variance)
    figure.legend(handles=row_keys(doc, markers=True), frameon=False, handlelength=3.5, loc="outside right center")
    notes = (
        "Accuracy: mean over a cell's converged runs (dots), unless most did not converge.",
        "Variance: of the pre-activations after initialisation, on training images without dropout; line: geometric "
        "mean over the layers; band: smallest to largest.",
    )
    return Picture(figure, f"by {name}", notes)


def _numbers(doc: Document) -> list[float] | None:
    """The columns as numbers, in their order; None if they are none, or too few."""
    values = [column["value"] for column in doc["columns"]]
    if doc["axes"][1] == "model":
        at = places(doc)
        depths = {
            at[run["run_id"]][1]: len({layer["layer"] for layer in run["init"]}) for run in doc["runs"] if run["init"]
        }
        values = [depths.get(column) for column in range(len(values))]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    return values if len(set(values)) >= MIN_COLUMNS and doc["axes"][1] != "seed" else None


def _line(axes: Any, x: Sequence[float], y: Sequence[float | None], look: dict[str, Any]) -> None:
    points = sorted((at, value) for at, value in zip(x, y, strict=True) if value is not None)
    if points:
        axes.plot(*zip(*points, strict=True), **look, linewidth=1.5)
