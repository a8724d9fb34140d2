"""The figures of what happens in the layers: variances, gradients and weights."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from replicate.report.axes import moment_text, title
from replicate.report.layout import LEVEL_LINE, Layout, grid, logarithmic, looks_of, panels, plot_line

SPREAD = "line: geometric mean over the runs and maxout pieces of a cell; band: smallest to largest"
NARROW = 300  # from smallest to largest: powers of ten alone would leave an axis without numbers
EARLY = 1000  # iterations, the moment beside the initialisation


def variance_figure(layout: Layout, variances: pd.DataFrame) -> Figure:
    """Draw the variance of each layer's pre-activation after initialisation, a panel a column, a colour a row.

    Args:
        layout: the table's.
        variances: of `layer_variances`.
    """
    layers = variances.drop_duplicates("position").sort_values("position")
    looks = looks_of(layout, markers=True)

    def panel(axes: Axes, column: object) -> None:
        axes.axhline(1, zorder=1, **LEVEL_LINE)
        for row, series in variances[variances["column"] == column].groupby("row", sort=False):
            plot_line(axes, series, "position", looks[row])
        logarithmic(axes)
        axes.set_xticks(layers["position"].to_list(), layers["layer"].to_list(), rotation=90, fontsize=7)
        axes.grid(visible=False, axis="x")

    keys = [Line2D([], [], label=title(row), **look) for row, look in looks.items()]
    left_out = variances.attrs["left_out"]
    return panels(
        layout,
        panel,
        [*keys, Line2D([], [], label="1, the target of LSUV", **LEVEL_LINE)],
        heading="variance after initialisation",
        x="weight layer, in forward order",
        y="variance of the pre-activation",
        note=_left_out(SPREAD, left_out, "zero, not finite or not measured"),
    )


def flow_figure(layout: Layout, flow: pd.DataFrame, heading: str, y: str, level: bool) -> Figure:
    """Draw a quantity of each layer after initialisation and early in training, a line of panels each.

    Args:
        layout: the table's.
        flow: of `layer_flow`.
        heading: of the figure.
        y: what the quantity is.
        level: whether 1 is a mark to aim at.
    """
    moments = early_moments(flow)
    layers = flow.drop_duplicates("position").sort_values("position")
    looks = looks_of(layout, markers=True)

    def panel(axes: Axes, index: int, column: object) -> None:
        here = flow[(flow["column"] == column) & (flow["iteration"] == moments[index])]
        for row, series in here.groupby("row", sort=False):
            plot_line(axes, series, "position", looks[row])
        if level and len(here):
            axes.axhline(1, zorder=1, **LEVEL_LINE)
        logarithmic(axes)
        axes.set_xticks(layers["position"].to_list(), layers["layer"].to_list(), rotation=90, fontsize=6)
        axes.grid(visible=False, axis="x")

    keys = [Line2D([], [], label=title(row), **look) for row, look in looks.items()]
    target = [Line2D([], [], label="1, the target of LSUV", **LEVEL_LINE)] if level else []
    return grid(
        layout,
        panel,
        [moment_text(moment) for moment in moments],
        [*keys, *target],
        heading=heading,
        x="weight layer",
        y=y,
        note=_left_out(SPREAD, flow.attrs["left_out"], "zero or not finite"),
    )


def early_moments(flow: pd.DataFrame) -> list[int]:
    """The moments that a flow figure shows: the first, and 1,000 iterations or, of shorter runs, the last."""
    there = sorted(set(flow["iteration"]))
    later = EARLY if EARLY in there else there[-1]
    return list(dict.fromkeys([there[0], later]))


def spectra_figure(layout: Layout, spectra: pd.DataFrame) -> Figure:
    """Draw the singular values of the first, the middle and the last weight layer, before and after training.

    Args:
        layout: the table's.
        spectra: of `layer_spectra`.
    """
    layers = spectra.drop_duplicates("position").sort_values("position")
    chosen = layers.iloc[sorted({0, len(layers) // 2, len(layers) - 1})]
    positions = chosen["position"].to_list()
    looks = looks_of(layout)
    narrow = spectra["value"].max() < NARROW * spectra["value"].min()
    dotted: dict[str, Any] = {"linestyle": (0, (1, 1)), "linewidth": 1.0}

    def panel(axes: Axes, index: int, column: object) -> None:
        here = spectra[(spectra["column"] == column) & (spectra["position"] == positions[index])]
        for (row, after), series in here.groupby(["row", "after"], sort=False):
            look = {**looks[row], "linestyle": "-"}
            axes.plot(series["share"], series["value"], **(look if after else {**look, **dotted}))
        logarithmic(axes)
        if narrow:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")

    keys = [Line2D([], [], label=title(row), **{**look, "linestyle": "-"}) for row, look in looks.items()]
    times = [Line2D([], [], color="0.3", label="after initialisation", **dotted)]
    times.append(Line2D([], [], color="0.3", label="at the end"))
    return grid(
        layout,
        panel,
        chosen["layer"].to_list(),
        [*keys, *times],
        heading="singular values of the weights, before and after training",
        x="rank (largest: 0)",
        y="singular value",
        note="line: geometric mean over the runs and maxout pieces of a cell, rank by rank",
    )


def _left_out(note: str, number: int, why: str) -> str:
    return f"{note}; left out: {number} that are {why}" if number else note
