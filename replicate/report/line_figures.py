"""The figures made of lines: learning curves, and what happens in the layers. Frames in, figures out."""

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from replicate.report.cell import Cell
from replicate.report.frames import METRICS, QUANTITIES, Frames, averaged
from replicate.report.panels import LEVEL_LINE, MARKER_SIZE, STEP_LINE, Picture, facets, finish, looks, row_keys
from replicate.report.table import Table
from replicate.report.text import count, snapshot_name

SPREAD = "Line: geometric mean over the runs and maxout pieces of a cell; band: smallest to largest."
TITLES = {  # with short labels of the vertical axes
    "variance": ("variance through the layers", "variance"),
    "gradient_norm": ("gradients through the layers", "L2 norm of the gradient"),
}
EARLY = 1000  # iterations; what is shown next to the initialisation
NARROW = 300  # from smallest to largest: with only powers of ten, an axis could have no numbers
MAX_NAME = 20  # letters of a layer's name; longer ones would leave no room for the panels
THICK, THIN = 1.5, 0.7  # widths of lines: of a mean, of a single run
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def curves(table: Table, frames: Frames) -> Picture | None:
    """Draw test accuracy against iteration: means over converged runs, and each other run on its own.

    A mean over runs of which some stayed at chance would show what no run did.
    """
    found = frames.curves[frames.curves["metric"] == "test_accuracy"]
    if found.empty:
        return None
    converged = found["status"] == "converged"
    means = averaged(found[converged], "iteration").assign(run_id="", width=THICK)
    others = found[~converged].rename(columns={"value": "mean"}).assign(width=THIN)
    chance = 100 / table.protocol.classes if table.protocol.classes else None
    milestones = table.protocol.settings.get("milestones", ())
    lines = pd.concat([means, others], ignore_index=True)
    sizes = {width: width for width in (THICK, THIN)}
    grid = _lines(table, lines, "iteration", markers=False, units="run_id", size="width", sizes=sizes)
    grid.set(xlim=(0, found["iteration"].max()), ylim=(0, min(100, 1.1 * max(found["value"].max(), chance or 0))))
    for axes in grid.axes.flat:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for milestone in milestones:
            axes.axvline(milestone, zorder=1, **STEP_LINE)
        if chance is not None:
            axes.axhline(chance, zorder=1, **LEVEL_LINE)
    keys = row_keys(table)
    keys += [Line2D([], [], label="chance", **LEVEL_LINE)] if chance is not None else []
    keys += [Line2D([], [], label="learning-rate step", **STEP_LINE)] if milestones else []
    epoch = found["iteration"] / found["epoch"]
    same = math.isclose(epoch.min(), epoch.max(), rel_tol=1e-3)
    x = f"iteration (one epoch: {epoch.iloc[-1]:.4g})" if same else "iteration"
    figure = finish(grid, table, keys, x, METRICS["test_accuracy"])
    note = "Line: mean over a cell's converged runs; band: their range; thin line: a run that did not converge."
    return Picture(figure, "test accuracy during training", (note, *_absent(table, found)))


def _absent(table: Table, found: pd.DataFrame) -> list[str]:
    """Name the cells that have no curve."""
    there = {
        (table.rows[row], table.columns[column]) for row, column in zip(found["row"], found["column"], strict=True)
    }
    names = [f"{cell.name} ({_why(cell)})" for cell in table.cells if (cell.row, cell.column) not in there]
    return [f"No curve: {', '.join(names)}."] if names else []


def _why(cell: Cell) -> str:
    if not cell.finished:
        return "not finished"
    return "diverged" if cell.diverged == cell.finished else "no file"


def init_variance(table: Table, frames: Frames) -> Picture | None:
    """Draw the variance of each layer's pre-activation after initialisation."""
    return _through_layers(table, frames.init_variance, "variance after initialisation", QUANTITIES["variance"])


def layers(table: Table, frames: Frames, quantity: str) -> Picture | None:
    """Draw a quantity of each layer after initialisation and after 1,000 iterations or, of shorter runs, at the end."""
    found = frames.layers[frames.layers["quantity"] == quantity]
    there = set(found.loc[found["value"].notna(), "iteration"])
    shown = [min(there, default=0), EARLY if EARLY in there else max(there, default=0)]
    title, y = TITLES[quantity]
    return _through_layers(
        table, found[found["iteration"].isin(shown)], title, y, "iteration", target=quantity == "variance"
    )


def _through_layers(
    table: Table, found: pd.DataFrame, title: str, y: str, rows: str | None = None, *, target: bool = True
) -> Picture | None:
    """Draw the values of `found` against layers in the order of the forward pass; `target`: LSUV aims at 1."""
    means = averaged(found, *([rows] if rows else []), "position", "layer", geometric=True)
    if means.empty:
        return None
    grid = _lines(table, means, "position", rows, markersize=MARKER_SIZE, markeredgewidth=0)
    _logarithmic(grid, means)
    names = found.drop_duplicates("position").sort_values("position")
    for axes in grid.axes.flat:
        axes.set_xticks(names["position"], names["layer"].map(_shortened), rotation=90, fontsize=6 if rows else 7)
        if target:
            axes.axhline(1, zorder=1, **LEVEL_LINE)
    keys = row_keys(table, markers=True)
    keys += [Line2D([], [], label="1, the target of LSUV", **LEVEL_LINE)] if target else []
    snapshots = [snapshot_name(iteration) for iteration in grid.row_names]
    figure = finish(grid, table, keys, "weight layer, in forward order", y, snapshots)
    return Picture(figure, title, (SPREAD, *_left_out(found)))


def weight_spectra(table: Table, frames: Frames) -> Picture | None:
    """Draw the singular values of the first, the middle and the last weight layer, before and after training."""
    found = frames.spectra[frames.spectra["value"].notna()]
    if found.empty:
        return None
    names = found.drop_duplicates("position").sort_values("position")
    chosen = names.iloc[sorted({0, len(names) // 2, len(names) - 1})]
    found = frames.spectra[frames.spectra["position"].isin(chosen["position"])]
    means = averaged(found, "position", "after", "share", geometric=True)
    dashes: dict[bool, Any] = {False: (1, 1), True: ""}
    grid = _lines(table, means, "share", "position", band=False, style="after", markers=False, dashes=dashes)
    _logarithmic(grid, means)
    times = [
        Line2D([], [], color="0.3", dashes=dashes[after], label=label)
        for after, label in ((False, "after initialisation"), (True, "at the end"))
    ]
    keys = [*row_keys(table, dashes=False), *times]
    figure = finish(grid, table, keys, "rank (largest: 0)", "singular value", chosen["layer"].to_list())
    title = "singular values of the weights, before and after training"
    note = "Line: geometric mean over the runs and maxout pieces of a cell, rank by rank."
    return Picture(figure, title, (note, *_left_out(found)))


def _lines(
    table: Table, means: pd.DataFrame, x: str, rows: str | None = None, *, band: bool = True, **more: Any
) -> sns.FacetGrid:
    """Draw lines of means along `x`, and bands from low to high, in the panels of `facets`.

    More arguments go to seaborn's lineplot, or take the place of the rows' looks.
    """
    look = {"style": "row", **looks(table), **more}
    by = ["row", more["units"]] if "units" in more else ["row"]
    grid = facets(table, means, rows)
    for (at_row, at_column, _), panel in grid.facet_data():
        axes = grid.facet_axis(at_row, at_column)
        if panel.empty:
            axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", fontsize=8, color="0.3")
            continue
        sns.lineplot(panel, x=x, y="mean", hue="row", estimator=None, legend=False, ax=axes, **look)
        for drawn in axes.lines:
            if np.size(drawn.get_xdata()) == 1:  # a single point makes no line
                drawn.set_marker("o")
        for (row, *_), cell in panel.groupby(by) if band else ():
            axes.fill_between(cell[x], cell["low"], cell["high"], color=look["palette"][row], alpha=0.2, linewidth=0)
    return grid


def _logarithmic(grid: sns.FacetGrid, means: pd.DataFrame) -> None:
    """Make the vertical axes logarithmic, with plain text at their ticks, which needs no formula."""
    grid.set(yscale="log")
    for axes in grid.axes.flat:
        axes.yaxis.set_minor_locator(NullLocator())
        if means["high"].max() < NARROW * means["low"].min():
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.yaxis.set_major_formatter(lambda value, _: f"10{f'{math.log10(value):.0f}'.translate(RAISED)}")


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"


def _left_out(found: pd.DataFrame) -> list[str]:
    number = int(found["value"].isna().sum())
    return [f"Left out: {count(number, 'value')} (zero, not finite or not measured)."] if number else []
