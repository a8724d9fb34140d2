"""The figures of the final accuracies: the table as a heat map, and every run next to its cell's mean."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from replicate.report.document import cell_texts
from replicate.report.panels import Picture, facets, finish, looks
from replicate.report.statistics import mean_interval
from replicate.report.summary import summary
from replicate.report.table import Table
from replicate.report.text import display_name, published_number

# the colours read the same with and without colour blindness
MAP: dict[str, Any] = {"cmap": "cividis", "cbar": False, "linewidths": 1, "fmt": "", "annot_kws": {"fontsize": 8}}
DOT: dict[str, Any] = {"marker": "o", "alpha": 0.6}
MEAN: dict[str, Any] = {"color": "0.1", "linewidth": 1.3, "marker": "_", "markersize": 9, "markeredgewidth": 1.6}
PAPER: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 5, "markerfacecolor": "none", "color": "0.1"}
UPRIGHT: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7, "color": "0.35"}
MEAN_AT, PAPER_AT = 0.2, 0.4  # to the right of the runs


def heat_map(table: Table) -> Picture:
    """Draw mean accuracies and, if the table shows them, the published ones next to them on the same colour scale."""
    entries = table.entries.values()
    texts = ["\n".join(filter(None, cell_texts(entry.cell).values())) for entry in entries]
    panels = [("ours", [entry.cell.mean if entry.cell else None for entry in entries], texts)]
    notes = ["Mean ± standard deviation over n converged runs; n/c: most runs did not converge; –: not run."]
    if table.reference:
        words = {entry.verdict.word for entry in entries if entry.cell and entry.verdict.word}
        title = "paper (not comparable)" if words == {"not comparable"} else "paper"
        numbers = [entry.published if isinstance(entry.published, float) else None for entry in entries]
        panels.append((title, numbers, [published_number(entry.published) for entry in entries]))
        notes += summary(table)["not_comparable"]
    known = [value for _, values, _ in panels for value in values if value is not None]
    scale = (min(known), max(known)) if known else (0.0, 100.0)
    rows, columns = ([display_name(value) for value in axis] for axis in (table.rows, table.columns))
    shape = (len(rows), len(columns))
    size = (len(panels) * (0.95 * max(shape[1], 2) + 0.6) + 3.0, 0.68 * shape[0] + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, values, shown) in zip(grid, panels, strict=True):
        frame = pd.DataFrame(np.array(values, float).reshape(shape), rows, columns)
        _heat_panel(axes, frame, np.array(shown).reshape(shape), scale)
        axes.set_title(title)
    if known:
        bar = figure.colorbar(grid[0].collections[0], ax=list(grid), shrink=0.9, pad=0.015)
        bar.set_label("test accuracy (%)")
        bar.ax.set_frame_on(False)
    return Picture(figure, "test accuracy in %", tuple(notes))


def _heat_panel(axes: Axes, values: pd.DataFrame, texts: npt.NDArray[Any], scale: tuple[float, float]) -> None:
    sns.heatmap(values, annot=texts, vmin=scale[0], vmax=scale[1], ax=axes, **MAP)
    for y, x in np.argwhere(np.isnan(values)).tolist():
        failed = texts[y, x].startswith("n/c")
        shade, hatch = ("0.85", "////") if failed else ("0.96", None)
        square = Rectangle((x + 0.01, y + 0.01), 0.98, 0.98, facecolor=shade, hatch=hatch, edgecolor="0.7", linewidth=0)
        axes.add_patch(square)
        back = {"facecolor": shade, "edgecolor": "none", "pad": 1}  # text on hatching is hard to read
        axes.text(x + 0.5, y + 0.5, texts[y, x], ha="center", va="center", fontsize=8, bbox=back)
    axes.grid(visible=False)
    axes.tick_params(length=0, rotation=0)


def strip(table: Table) -> Picture:
    """Draw the converged runs of each cell, their mean and its 95 % interval, and the paper's number if it compares."""
    rows = range(len(table.rows))
    cells = [
        (table.rows.index(cell.row), table.columns.index(cell.column), cell, entry)
        for entry in table.entries.values()
        if (cell := entry.cell)
    ]
    runs = [(row, column, value) for row, column, cell, _ in cells if not cell.nc for value in cell.accuracies]
    grid = facets(table, pd.DataFrame(runs, columns=["row", "column", "accuracy"]))
    look = {"palette": looks(table)["palette"], "size": 4.5, "jitter": False, "legend": False, **DOT}
    grid.map_dataframe(sns.stripplot, x="row", y="accuracy", hue="row", order=list(rows), **look)
    papers = 0
    for row, column, cell, entry in cells:
        axes = grid.axes_dict[column]
        if cell.mean is None:
            texts = cell_texts(cell)
            text = f"{texts['number']} ({texts['counts']})" if texts["counts"] else texts["number"]
            axes.text(row + MEAN_AT, 0.03, text, transform=axes.get_xaxis_transform(), **UPRIGHT)
        else:
            axes.plot([row + MEAN_AT], [cell.mean], **MEAN)
        if interval := mean_interval(cell):
            axes.plot([row + MEAN_AT] * 2, interval, color=MEAN["color"], linewidth=MEAN["linewidth"])
        if isinstance(entry.published, float) and entry.verdict.word != "not comparable":
            axes.plot([row + PAPER_AT], [entry.published], **PAPER)
            papers += 1
    for axes in grid.axes.flat:
        names = [display_name(row) for row in table.rows]
        axes.set_xticks([row + MEAN_AT for row in rows], names, rotation=30, ha="right", fontsize=8)
        axes.set_xlim(-0.4, len(rows) - 0.2)
    if not (runs or papers):
        grid.set(ylim=(0, 100))
    keys = [Line2D([], [], color="0.4", linestyle="none", markeredgewidth=0, label="a converged run", **DOT)]
    keys.append(Line2D([], [], label="mean and its 95 % interval", **MEAN))
    keys += [Line2D([], [], label="paper", **PAPER)] if papers else []
    figure = finish(grid, table, keys, x="", y="test accuracy (%)")
    note = "n/c (k/m): k of m finished runs did not converge, which is more than half; … k/m: k of m have finished."
    return Picture(figure, "final test accuracy by initialisation", (note,))
