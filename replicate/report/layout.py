"""What the figures of an experiment share: style, colours, captions, and how panels are laid out and saved."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from replicate.report.axes import title
from replicate.report.protocol import Protocol
from replicate.report.statistics import Cell

DOTS_PER_INCH = 150
PANELS_PER_LINE = 3
PANEL = (3.6, 2.8)  # width and height in inches
LINES = ("-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)))  # with the colours, so that grey prints can be read too
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MARKERS = ("o", "s", "^", "D", "v")
LEVEL_LINE: dict[str, Any] = {"color": "0.25", "linewidth": 0.8}
STEP_LINE: dict[str, Any] = {"color": "0.45", "linewidth": 1.0, "linestyle": ":"}
STYLE: Any = {
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.color": "0.92",
    "text.parse_math": False,  # a label with two dollars is no formula
    "pdf.fonttype": 42,  # fonts as outlines that publishers accept
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What the figures of an experiment share.

    Args:
        name: of the experiment.
        rows: values of the table's first axis that are shown, a colour each.
        columns: values of its second axis, a panel each.
        cells: the cells.
        protocol: what the caption names.
        order: all values of the first axis; a value keeps its colour whatever else is shown.
    """

    name: str
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: tuple[Cell, ...]
    protocol: Protocol
    order: tuple[Any, ...]

    def caption(self) -> str:
        """Data, schedule, precision and number of runs, as they stand under each figure."""
        counts = sorted({cell.finished for cell in self.cells})
        number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        return f"{self.protocol.summary()}; runs a cell: {number}"


def looks_of(layout: Layout, *, markers: bool = False) -> dict[Any, dict[str, Any]]:
    """Give each row of the table its colour, line style and marker."""
    palette = sns.color_palette("colorblind")
    looks: dict[Any, dict[str, Any]] = {}
    for row in layout.rows:
        index = layout.order.index(row)
        looks[row] = {"color": palette[index % len(palette)], "linestyle": LINES[index % len(LINES)], "linewidth": 1.5}
        looks[row] |= {"marker": MARKERS[index % len(MARKERS)] if markers else None, "markersize": 3}
    return looks


def plot_line(axes: Axes, series: pd.DataFrame, x: str, look: dict[str, Any]) -> None:
    """Draw a line of means, and the band from low to high around it."""
    axes.fill_between(series[x], series["low"], series["high"], color=look["color"], alpha=0.2, linewidth=0)
    lonely = {"marker": "o"} if len(series) == 1 else {}  # a single point makes no line
    axes.plot(series[x], series["mean"], **{**look, **lonely})


def panels(
    layout: Layout,
    panel: Callable[[Axes, object], None],
    keys: list[Line2D],
    *,
    heading: str,
    x: str,
    y: str,
    note: str,
) -> Figure:
    """Lay out one panel a column of the table, and the legend in a free place."""
    across = min(PANELS_PER_LINE, len(layout.columns))
    down = math.ceil(len(layout.columns) / across)
    # the captions need some width, even under a single panel
    figure = Figure(figsize=(max(across, 2) * PANEL[0], down * PANEL[1] + 0.9), layout="constrained")
    grid = list(figure.subplots(down, across, sharey=True, squeeze=False).flat)
    for index, (axes, column) in enumerate(zip(grid, layout.columns, strict=False)):
        panel(axes, column)
        axes.set_title(title(column))
        axes.tick_params(labelleft=True)
        if index % across == 0:
            axes.set_ylabel(y)
        if index + across >= len(layout.columns):
            axes.set_xlabel(x)
    free = grid[len(layout.columns) :]
    for axes in free:
        axes.set_axis_off()
    if free:
        free[0].legend(handles=keys, loc="center", frameon=False, handlelength=3.5)
    else:
        figure.legend(handles=keys, loc="outside right upper", frameon=False, handlelength=3.5)
    figure.suptitle(f"{layout.name}: {heading}", fontsize=11)
    figure.supxlabel(f"{layout.caption()}\n{note}", fontsize=8)
    return figure


def logarithmic(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with powers of ten as plain text, which needs no formula."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"10{f'{math.log10(value):.0f}'.translate(RAISED)}")


def grid(
    layout: Layout,
    panel: Callable[[Axes, int, object], None],
    names: Sequence[str],
    keys: list[Line2D],
    *,
    heading: str,
    x: str,
    y: str,
    note: str,
) -> Figure:
    """Lay out a line of panels for each of `names`, with one panel a column of the table."""
    across, down = len(layout.columns), len(names)
    size = (max(across, 2) * 0.72 * PANEL[0] + 0.6, down * 0.8 * PANEL[1] + 1.3)
    figure = Figure(figsize=size, layout="constrained")
    found = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for (index, across_at), axes in np.ndenumerate(found):
        column = layout.columns[across_at]
        panel(axes, index, column)
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing measured", transform=axes.transAxes, ha="center", fontsize=8, color="0.3")
        if index == 0:
            axes.set_title(title(column))
        if across_at == 0:
            axes.set_ylabel(f"{names[index]}\n{y}")
        if index == down - 1:
            axes.set_xlabel(x)
    figure.legend(handles=keys, loc="outside right center", frameon=False, handlelength=3.5)
    figure.suptitle(f"{layout.name}: {heading}", fontsize=11)
    figure.supxlabel(f"{layout.caption()}\n{note}", fontsize=8)
    return figure


def save(figure: Figure, stem: Path) -> tuple[list[Path], str]:
    """Write a figure as PNG, which says itself what it shows, and as PDF, which leaves that to a paper's caption.

    Returns:
        The files, and the caption.
    """
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")]
    figure.savefig(paths[0], dpi=DOTS_PER_INCH)
    caption = "; ".join([figure.get_suptitle(), *figure.get_supxlabel().splitlines()]) + "."
    for text in (figure.suptitle(""), figure.supxlabel("")):
        text.set_in_layout(False)
    figure.savefig(paths[1], metadata={"CreationDate": None})  # the same results give the same bytes
    return paths, caption
