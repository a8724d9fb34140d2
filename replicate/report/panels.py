"""What the figures share: their style, the looks of the table's rows, and grids with one panel per column."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replicate.report.table import Table
from replicate.report.text import display_name

PANELS_PER_LINE = 3
PANEL = (3.6, 2.7)  # width and height in inches
SMALL_PANEL = (2.5, 2.2)  # in grids with several panels per column
LEGEND = 2.4  # width in inches
DASHES = ("", (4, 1.5), (4, 1.5, 1, 1.5), (1, 1.4), (4, 1, 1, 1, 1, 1))  # with the colours, for grey prints
MARKER_SIZE = 3.5
MARKERS = ("o", "s", "^", "D", "v")
LEVEL_LINE: dict[str, Any] = {"color": "0.25", "linestyle": "-", "linewidth": 0.8}
STEP_LINE: dict[str, Any] = {"color": "0.45", "linestyle": ":", "linewidth": 1.0}
STYLE: Any = {
    **sns.axes_style("whitegrid"),
    "axes.grid.axis": "y",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.color": "0.92",
    "text.parse_math": False,  # a label with two dollars is no formula
    "pdf.fonttype": 42,  # fonts as outlines that publishers accept
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, and what its caption says.

    Args:
        figure: without title and caption.
        title: what it shows.
        notes: sentences on how to read it.
    """

    figure: Figure
    title: str
    notes: tuple[str, ...]


def looks(table: Table) -> dict[str, Any]:
    """Each row's colour, dashes and marker, as arguments of seaborn: the same whichever other rows are shown."""
    colours, places = sns.color_palette("colorblind"), [table.order.index(row) for row in table.rows]

    def pick(values: Any) -> dict[int, Any]:
        return {index: values[place % len(values)] for index, place in enumerate(places)}

    return {"palette": pick(colours), "dashes": pick(DASHES), "markers": pick(MARKERS)}


def row_keys(table: Table, *, dashes: bool = True, markers: bool = False) -> list[Line2D]:
    """The legend's entries for the rows of the table."""
    look, plain = looks(table), [""] * len(table.rows)
    shapes = zip(
        look["dashes"].values() if dashes else plain, look["markers"].values() if markers else plain, strict=True
    )
    return [
        Line2D([], [], color=colour, dashes=dash, marker=marker, markersize=MARKER_SIZE, label=display_name(row))
        for row, colour, (dash, marker) in zip(table.rows, look["palette"].values(), shapes, strict=True)
    ]


def facets(table: Table, frame: pd.DataFrame, rows: str | None = None) -> sns.FacetGrid:
    """A grid of one panel per column of the table: one line of panels for each value of `rows`, or a wrapped line."""
    columns = range(len(table.columns))
    wrap = None if rows else min(PANELS_PER_LINE, len(columns))
    return sns.FacetGrid(
        frame, col="column", col_order=list(columns), col_wrap=wrap, row=rows, sharex=bool(rows), despine=False
    )


def finish(grid: sns.FacetGrid, table: Table, keys: list[Line2D], x: str, y: str, names: Sequence[str] = ()) -> Figure:
    """Set the size, titles, labels and legend of a grid of `facets`; `names` are those of its lines of panels."""
    figure = grid.figure
    across = len(table.columns) if names else min(PANELS_PER_LINE, len(table.columns))
    for index, axes in enumerate(grid.axes.flat):
        line, place = divmod(index, across)
        axes.set_title("" if names and line else display_name(table.columns[index]))
        axes.set_ylabel("" if place else f"{names[line]}\n{y}" if names else y)
        axes.tick_params(labelleft=place == 0)
        axes.set_xlabel(x if index + across >= grid.axes.size else "")
    free = -grid.axes.size % across
    down = (grid.axes.size + free) // across
    width, height = SMALL_PANEL if names else PANEL
    # the caption needs some width, even under a single panel
    figure.set_size_inches(max(across, 2) * width + (0 if free else LEGEND), down * height + 1)
    where: Any = {"loc": "center right", "bbox_to_anchor": (1, 0.3)} if free else {"loc": "outside right center"}
    figure.legend(handles=keys, frameon=False, handlelength=3.5, **where)
    figure.set_layout_engine("constrained")
    plt.close(figure)  # pyplot, which made it for seaborn, would keep it
    return figure
