"""A figure of everything that depends on a column that is a number, such as a batch size or the depth of a net."""

from statistics import geometric_mean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from replicate.report.charts import Chart
from replicate.report.document import Document
from replicate.report.document import places as places_of
from replicate.report.findings import NOUNS
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
    order = sorted(x, key=x.__getitem__)  # of the columns
    places = [x[column] for column in order]
    for row in range(len(doc["rows"])):
        look = {**line_style(row, markers=True), "linewidth": 1.5}
        cells = [doc["cells"][row * len(doc["columns"]) + column] for column in order]
        for at, cell in zip(places, cells, strict=True):
            accuracy.plot([at] * len(cell["accuracies"]), cell["accuracies"], **DOT, color=look["color"])
        shares = [100 * cell["converged"] / cell["finished"] if cell["finished"] else None for cell in cells]
        # None interrupts a line
        accuracy.plot(places, np.array([cell["mean"] for cell in cells], float), **look)
        share.plot(places, np.array(shares, float), **look)
        lines = {line["column"]: line for line in (variances or {"lines": []})["lines"] if line["row"] == row}
        measured = [lines.get(column) for column in order]
        mean, low, high = (
            np.array([statistic(filter(None, line[key])) if line else None for line in measured], float)
            for key, statistic in (("y", geometric_mean), ("low", min), ("high", max))
        )
        variance.plot(places, mean, **look)
        variance.fill_between(places, low, high, color=look["color"], alpha=0.12, linewidth=0)
    name = "weight layers" if doc["axes"][1] == "model" else doc["axes"][1].replace("_", " ")
    for axes in (accuracy, share, variance):
        axes.set_xlabel(name)
        if places[0] > 0 and places[-1] >= 10 * places[0]:
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    accuracy.set_title("test accuracy (%)")
    share.set(title="converged runs (%)", ylim=(-4, 104))
    variance.set_title("variance of the layers")
    variance.axhline(1, zorder=1, **LEVEL_LINE)
    make_logarithmic(variance)
    rows = doc["axes"][0]
    place: dict[str, Any] = {"frameon": False, "handlelength": 3.5, "loc": "outside right center"}
    figure.legend(handles=row_keys(doc, markers=True), title=NOUNS.get(rows, rows.replace("_", " ")), **place)
    notes = (
        "Accuracy: mean over a cell's converged runs (dots), unless most did not converge.",
        "Variance: of the pre-activations after initialisation, on training images without dropout; line: geometric "
        "mean over the layers; band: smallest to largest.",
    )
    return Picture(figure, f"by {name}", notes)


def _numbers(doc: Document) -> dict[int, float] | None:
    """The columns that are numbers, by their index; None if they are too few."""
    axis, values = doc["axes"][1], dict(enumerate(column["value"] for column in doc["columns"]))
    if axis == "model":
        at = places_of(doc)
        values = {
            at[run["run_id"]][1]: len({layer["layer"] for layer in run["init"]}) for run in doc["runs"] if run["init"]
        }
    are_numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values.values())
    return values if are_numbers and len({*values.values()}) >= MIN_COLUMNS and axis != "seed" else None
