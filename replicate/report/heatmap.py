"""The accuracy matrix as a heat map, beside the published one."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from replicate.report.axes import title
from replicate.report.published import Published, incomparable
from replicate.report.statistics import Cell

COLOURS = "cividis"  # reads alike with and without colour blindness
Place = tuple[Any, Any]


def accuracy_figure(
    name: str,
    rows: Sequence[Any],
    columns: Sequence[Any],
    cells: Sequence[Cell],
    published: Mapping[Place, Published] | None,
    caption: str,
) -> Figure:
    """Draw mean accuracies, and the published ones beside them on the same colour scale.

    Args:
        name: of the experiment.
        rows: values of the table's first axis.
        columns: values of its second axis.
        cells: our cells.
        published: (row, column) -> accuracy in % or `n/c`; None for ours alone.
        caption: what stands under the figure.
    """
    ours = {(cell.row, cell.column): cell for cell in cells}
    panels = [
        ({place: cell.mean for place, cell in ours.items()}, {place: _text(cell) for place, cell in ours.items()})
    ]
    if published is not None:
        shown = {place: published[place] for place in product(rows, columns) if place in published}
        numbers = {place: None if value == "n/c" else float(value) for place, value in shown.items()}
        panels.append(
            (numbers, {place: "n/c" if value is None else f"{value:.2f}" for place, value in numbers.items()})
        )
    values = [value for numbers, _ in panels for value in numbers.values() if value is not None]
    scale = (min(values), max(values)) if values else (0.0, 100.0)
    size = (len(panels) * (0.95 * len(columns) + 0.6) + 3.0, 0.68 * len(rows) + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (numbers, texts) in zip(grid, panels, strict=True):
        _panel(axes, rows, columns, numbers, texts, scale)
    grid[0].set_title("ours")
    notes = [caption, "mean ± standard deviation over n converged runs; n/c: most runs did not converge; –: not run"]
    if published is not None:
        beside = [cell for place, cell in ours.items() if place in published]
        odd = [cell.name for cell in beside if incomparable(cell.run)]
        whole = len(odd) == len(beside)
        grid[1].set_title("paper (not comparable: another data set or protocol)" if odd and whole else "paper")
        notes += [f"not comparable with the paper: {', '.join(odd)}"] if odd and not whole else []
    if values:
        bar = figure.colorbar(grid[0].collections[0], ax=list(grid), shrink=0.9, pad=0.015)
        bar.set_label("test accuracy (%)")
        bar.ax.set_frame_on(False)
    figure.suptitle(f"{name}: test accuracy in %", fontsize=11)
    figure.supxlabel("\n".join(notes), fontsize=8)
    return figure


def _text(cell: Cell) -> str:
    if cell.finished == 0:
        return f"… 0/{cell.expected}"
    waits = f"\n… {cell.finished}/{cell.expected}" if cell.finished < cell.expected else ""
    if cell.nc:
        return f"n/c\n{cell.failed}/{cell.finished}{waits}"
    spread = "" if cell.sd is None else f" ± {cell.sd:.1f}"
    failed = f", {cell.failed} n/c" if cell.failed else ""
    return f"{cell.mean:.1f}{spread}\nn={cell.converged}{failed}{waits}"


def _panel(
    axes: Axes,
    rows: Sequence[Any],
    columns: Sequence[Any],
    numbers: Mapping[Place, float | None],
    texts: Mapping[Place, str],
    scale: tuple[float, float],
) -> None:
    empty = [[numbers.get((row, column)) is None for column in columns] for row in rows]
    values = [[np.nan if value is None else value for value in (numbers.get((r, c)) for c in columns)] for r in rows]
    labels = [[texts.get((row, column), "–") for column in columns] for row in rows]
    sns.heatmap(
        np.array(values, dtype=float),
        mask=np.array(empty),
        annot=np.array(labels),
        fmt="",
        annot_kws={"fontsize": 8},
        vmin=scale[0],
        vmax=scale[1],
        cmap=COLOURS,
        cbar=False,
        linewidths=1,
        xticklabels=[title(column) for column in columns],
        yticklabels=[title(row) for row in rows],
        ax=axes,
    )
    for y, x in np.argwhere(empty).tolist():
        failed = labels[y][x].startswith("n/c")
        shade, hatch = ("0.85", "////") if failed else ("0.96", None)
        square = Rectangle((x + 0.01, y + 0.01), 0.98, 0.98, facecolor=shade, hatch=hatch, edgecolor="0.7", linewidth=0)
        axes.add_patch(square)
        back = {"facecolor": shade, "edgecolor": "none", "pad": 1}  # text on hatching is hard to read
        axes.text(x + 0.5, y + 0.5, labels[y][x], ha="center", va="center", fontsize=8, bbox=back)
    axes.grid(visible=False)
    axes.tick_params(length=0, rotation=0)
