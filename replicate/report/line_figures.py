"""The figures made of lines, with one panel per column of the table, and the style of all figures. Charts in."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator

from replicate.report.charts import Chart
from replicate.report.document import Document
from replicate.report.text import snapshot_name

LEGEND = 2.4  # width in inches
# dashes in addition to the colours, for grey prints
DASHES = ("-", (0, (4, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (1, 1.4)), (0, (4, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")
MARKER: dict[str, Any] = {"markersize": 3.5, "markeredgewidth": 0}
LEVEL_LINE: dict[str, Any] = {"color": "0.25", "linestyle": "-", "linewidth": 0.8}
STEP_LINE: dict[str, Any] = {"color": "0.45", "linestyle": ":", "linewidth": 1.0}
MEANS = "Line: geometric mean over the runs and maxout pieces of a cell"
LEFT_OUT = "Values that are zero or not finite are left out."
MAX_LABELS = 30  # layers that are named below a panel
EARLY = 1000  # iterations; what is shown next to the initialisation
STYLE: Any = {
    **sns.axes_style("whitegrid"),
    "axes.grid.axis": "y",
    "axes.titleweight": "bold",
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.color": "0.92",
    "text.parse_math": False,  # a label with two dollars is not a formula
    "pdf.fonttype": 42,  # fonts as outlines that publishers accept
}


class Picture(NamedTuple):
    """A figure and its caption.

    Args:
        figure: without title and caption.
        title: what it shows.
        notes: sentences on how to read it.
    """

    figure: Figure
    title: str
    notes: tuple[str, ...]


def line_style(row: int, *, dashes: bool = True, markers: bool = False) -> dict[str, Any]:
    """The colour, dashes and marker of a row of the table. Fifty rows have different colours or dashes."""
    colours = sns.color_palette("colorblind")
    again, place = divmod(row, len(colours))
    return {
        "color": colours[place],
        "linestyle": DASHES[(row + again) % len(DASHES)] if dashes else "-",
        "marker": MARKERS[row % len(MARKERS)] if markers else "",
        **MARKER,
    }


def row_keys(doc: Document, **style: bool) -> list[Line2D]:
    """The legend's entries for the rows of the table; `style` are options of `line_style`."""
    return [Line2D([], [], label=row["title"], **line_style(index, **style)) for index, row in enumerate(doc["rows"])]


def panels(
    doc: Document, x: str, y: str, keys: Sequence[Line2D], names: Sequence[str] = ("",)
) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure with a legend and one panel per column of the table, or one line of such panels per name.

    Args:
        doc: names the columns.
        x: label of the horizontal axes.
        y: label of the vertical axes, which are shared.
        keys: entries of the legend.
        names: of the lines of panels. If there is only one, it is not shown, and the line is wrapped.

    Returns:
        The figure, and for each name its panels, in the order of the columns.
    """
    columns, several = len(doc["columns"]), len(names) > 1
    across = columns if several else min(3, columns)
    used = len(names) * columns
    down = math.ceil(used / across)
    free = down * across > used
    width, height = (2.5, 2.2) if several else (3.6, 2.7)  # of a panel in inches
    # the caption needs some width, even under a single panel
    size = (max(across, 2) * width + (0 if free else LEGEND), down * height + 1)
    # apart, so that the numbers of two panels do not touch
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08))
    grid = list(figure.subplots(down, across, sharex=several, sharey=True, squeeze=False).flat)
    for axes in grid[used:]:
        axes.remove()
    del grid[used:]
    for axes, column in zip(grid, doc["columns"], strict=False):  # the first line
        axes.set_title(column["title"])
    for line, axes in enumerate(grid[::across]):
        axes.set_ylabel(f"{names[line]}\n{y}" if several else y)
    for axes in grid[-across:]:
        axes.set_xlabel(x)
    where: Any = {"loc": "center right", "bbox_to_anchor": (1, 0.6 / down)} if free else {"loc": "outside right center"}
    figure.legend(handles=keys, frameon=False, handlelength=3.5, **where)
    return figure, [grid[start : start + columns] for start in range(0, used, columns)]


def curves(doc: Document, chart: Chart) -> Picture | None:
    """Draw a metric against iteration: means over converged runs, and each other run separately.

    A mean over runs of which some stayed at chance would show a curve that no run had.
    """
    if not chart["lines"]:
        return None
    classes, milestones = doc["protocol"]["classes"], doc["protocol"]["settings"].get("milestones", [])
    levels = [100 / classes] if classes else []
    keys = row_keys(doc)
    keys += [Line2D([], [], label="chance", **LEVEL_LINE)] if levels else []
    keys += [Line2D([], [], label="learning-rate step", **STEP_LINE)] if milestones else []
    figure, (line,) = panels(doc, "iteration", chart["label"], keys)
    shown = [one for one in chart["lines"] if one["kind"] != "run"]
    _draw(line, {**chart, "lines": shown})
    highest = max(value for one in chart["lines"] for value in one["y"] if value is not None)
    for axes in line:
        axes.set(xlim=(0, chart["x"][-1]), ylim=(0, min(100, 1.1 * max([highest, *levels]))))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        for milestone in milestones:
            axes.axvline(milestone, zorder=1, **STEP_LINE)
        for level in levels:
            axes.axhline(level, zorder=1, **LEVEL_LINE)
    notes = ["Line: mean over a cell's converged runs; band: their range; thin line: a run that did not converge."]
    drawn = {(one["row"], one["column"]) for one in shown}
    absent = [
        cell["name"]
        for index, cell in enumerate(doc["cells"])
        if cell["expected"] and divmod(index, len(doc["columns"])) not in drawn
    ]
    notes += [f"No curve: {', '.join(absent)}."] if absent else []
    return Picture(figure, "test accuracy during training", tuple(notes))


def layers(doc: Document, charts: Mapping[int, Chart], title: str, y: str, target: float | None = 1) -> Picture | None:
    """Draw a quantity of each layer after initialisation and after 1,000 iterations or, of shorter runs, at the end.

    Args:
        doc: of the table.
        charts: iteration -> chart.
        title: of the figure.
        y: label of the vertical axes.
        target: the value that LSUV aims at.
    """
    found = [iteration for iteration, chart in charts.items() if chart["lines"]]
    if not found:
        return None
    shown = list(dict.fromkeys([found[0], EARLY if EARLY in found else found[-1]]))
    keys = row_keys(doc, markers=True)
    keys += [Line2D([], [], label=f"{target}, the target of LSUV", **LEVEL_LINE)] if target else []
    figure, grid = panels(doc, "weight layer, in forward order", y, keys, list(map(snapshot_name, shown)))
    for line, iteration in zip(grid, shown, strict=True):
        chart = charts[iteration]
        x = range(len(chart["x"]))
        labelled = slice(None, None, math.ceil(len(x) / MAX_LABELS))
        _draw(line, {**chart, "x": x}, markers=True)
        for axes in line:
            axes.set_xticks(x[labelled], chart["x"][labelled], rotation=90, fontsize=6 if len(shown) > 1 else 7)
            if target:
                axes.axhline(target, zorder=1, **LEVEL_LINE)
    make_logarithmic(grid[0][0])
    return Picture(figure, title, (f"{MEANS}; band: smallest to largest. {LEFT_OUT}",))


def weight_spectra(doc: Document, charts: Mapping[str, Sequence[Chart]]) -> Picture | None:
    """Draw the singular values of the first, the middle and the last weight layer, before and after training."""
    names = [name for name, both in charts.items() if any(chart["lines"] for chart in both)]
    if not names:
        return None
    shown = list(dict.fromkeys([names[0], names[len(names) // 2], names[-1]]))
    styles: dict[str, Any] = {"after initialisation": (0, (1, 1)), "at the end": "-"}
    keys = row_keys(doc, dashes=False)
    keys += [Line2D([], [], color="0.3", linestyle=dashes, label=label) for label, dashes in styles.items()]
    figure, grid = panels(doc, "rank (largest: 0)", "singular value", keys, shown)
    for line, name in zip(grid, shown, strict=True):
        for chart, dashes in zip(charts[name], styles.values(), strict=True):
            _draw(line, chart, band=False, linestyle=dashes)
    make_logarithmic(grid[0][0])
    title = "singular values of the weights, before and after training"
    return Picture(figure, title, (f"{MEANS}, rank by rank. {LEFT_OUT}",))


def _draw(panels: Sequence[Axes], chart: Chart, *, markers: bool = False, band: bool = True, **style: Any) -> None:
    """Draw the lines of a chart into the panels of its columns; `style` replaces parts of the row's line style."""
    x = np.array(chart["x"])
    for line in chart["lines"]:
        axes, y, mean = panels[line["column"]], np.array(line["y"], float), line["kind"] == "mean"
        shown = np.isfinite(y)
        look = {**line_style(line["row"], markers=markers), "linewidth": 1.5 if mean else 1.0, **style}
        look |= {"marker": "o"} if shown.sum() == 1 else {}  # a single point makes no line
        axes.plot(x[shown], y[shown], **look)
        if band and mean:
            low, high = (np.array(line[name], float) for name in ("low", "high"))
            axes.fill_between(x, low, high, where=shown, color=look["color"], alpha=0.2, linewidth=0)


def make_logarithmic(axes: Axes) -> None:
    """Make the shared vertical axis logarithmic, with numbers at 1 and other powers of ten; if narrow, also between."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if high < 300 * low:  # with only powers of ten, the axis could have no numbers
        few = high < 2 * low  # then 1, 2 and 5 give at most one number
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=(1, 2, 5, 10)) if few else LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        return
    # LogLocator would count its steps from the lowest power, and could leave 1 out.
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(high))
    step = math.ceil((last - first) / 8)
    powers = {10.0**exponent: exponent for exponent in range(first, last + 1) if exponent % step == 0}
    axes.yaxis.set_major_locator(FixedLocator([*powers]))
    axes.yaxis.set_major_formatter(lambda value, _: f"1e{powers[value]}" if powers[value] else "1")
