"""The figures of an experiment: accuracy matrix, learning curves, and variances after initialisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, NullLocator

from replicate.experiment import Experiment
from replicate.report.axes import title
from replicate.report.heatmap import accuracy_figure
from replicate.report.protocol import Protocol, protocol
from replicate.report.published import read_reference
from replicate.report.series import layer_variances, learning_curves
from replicate.report.statistics import Cell, cells
from replicate.report.table import axis_values, require_finished
from replicate.results import Records
from replicate.run import Run

DOTS_PER_INCH = 150
PANELS_PER_LINE = 3
PANEL = (3.6, 2.8)  # width and height in inches
LINES = ("-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)))  # with the colours, so that grey prints can be read too
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


def draw(experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path, folder: Path) -> list[Path]:
    """Draw an experiment's figures, each as PNG and as PDF. A figure that there is nothing for is left out.

    Args:
        experiment: names the axes and the published numbers.
        runs: the runs to show.
        records: what `out` holds of them.
        out: the output folder, which also holds the curves.
        folder: where to; it is made if need be.

    Returns:
        The files: `accuracy`, `curves` and `init_variance`.

    Raises:
        UsageError: no run has finished, the records were made on different data sets, or a cell mixes settings.
    """
    results = tuple(records.results.values())
    require_finished(experiment, results, out)
    axes = (experiment.table.rows, experiment.table.columns)
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    grid, header = cells(runs, records.results, *axes), protocol(runs, results, axes)
    layout = Layout(experiment.name, rows, columns, grid, header, tuple(experiment.grid.get(axes[0], rows)))
    published = read_reference(experiment.table.reference, *axes) if experiment.table.reference else None
    curves, variances = learning_curves(results, out, *axes), layer_variances(results, *axes)
    with sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        figures = {"accuracy": accuracy_figure(layout.name, rows, columns, grid, published, layout.caption())}
        if len(curves):
            figures["curves"] = curves_figure(layout, curves)
        if len(variances):
            figures["init_variance"] = variance_figure(layout, variances)
        folder.mkdir(parents=True, exist_ok=True)
        return [path for name, figure in figures.items() for path in _save(figure, folder / name)]


def curves_figure(layout: Layout, curves: pd.DataFrame) -> Figure:
    """Draw test accuracy against iteration, a panel a column, a colour a row of the table.

    Args:
        layout: the table's.
        curves: of `learning_curves`.
    """
    chance = 100 / layout.protocol.classes if layout.protocol.classes else None
    milestones = layout.protocol.settings.get("milestones", ())
    looks = _looks(layout)

    def panel(axes: Axes, column: object) -> None:
        for milestone in milestones:
            axes.axvline(milestone, zorder=1, **STEP_LINE)
        if chance is not None:
            axes.axhline(chance, zorder=1, **LEVEL_LINE)
        here = curves[curves["column"] == column]
        for (row, line), series in here.groupby(["row", "line"], sort=False):
            thin = {} if line == "converged" else {"linewidth": 0.7}
            _line(axes, series, "iteration", {**looks[row], **thin})
        if absent := [cell for cell in layout.cells if cell.column == column and cell.row not in set(here["row"])]:
            note = "\n".join(["no curve:", *(f"{title(cell.row)} ({_why(cell)})" for cell in absent)])
            axes.text(0.97, 0.2, note, transform=axes.transAxes, ha="right", fontsize=8, color="0.3")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(0, curves["iteration"].max())
        axes.set_ylim(0, min(100, 1.1 * max(curves["high"].max(), chance or 0)))

    last = curves.iloc[-1]
    keys = [Line2D([], [], label="chance", **LEVEL_LINE)] if chance is not None else []
    keys += [Line2D([], [], label="learning-rate step", **STEP_LINE)] if milestones else []
    return _figure(
        layout,
        panel,
        [*(Line2D([], [], label=title(row), **look) for row, look in looks.items()), *keys],
        heading="test accuracy during training",
        x=f"iteration (one epoch: {last['iteration'] / last['epoch']:.4g})",
        y="test accuracy (%)",
        note="line: mean over a cell's converged runs; band: their range; thin line: a run that did not converge",
    )


def variance_figure(layout: Layout, variances: pd.DataFrame) -> Figure:
    """Draw the variance of each layer's pre-activation after initialisation, a panel a column, a colour a row.

    Args:
        layout: the table's.
        variances: of `layer_variances`.
    """
    layers = variances.drop_duplicates("position").sort_values("position")
    looks = _looks(layout, markers=True)

    def panel(axes: Axes, column: object) -> None:
        axes.axhline(1, zorder=1, **LEVEL_LINE)
        for row, series in variances[variances["column"] == column].groupby("row", sort=False):
            _line(axes, series, "position", looks[row])
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xticks(layers["position"].to_list(), layers["layer"].to_list(), rotation=90, fontsize=7)
        axes.grid(visible=False, axis="x")

    keys = [Line2D([], [], label=title(row), **look) for row, look in looks.items()]
    note = "line: geometric mean over the runs and maxout pieces of a cell; band: smallest to largest"
    left_out = variances.attrs["left_out"]
    return _figure(
        layout,
        panel,
        [*keys, Line2D([], [], label="1, the target of LSUV", **LEVEL_LINE)],
        heading="variance after initialisation",
        x="weight layer, in forward order",
        y="variance of the pre-activation",
        note=f"{note}; left out: {left_out} that are zero, not finite or not measured" if left_out else note,
    )


def _looks(layout: Layout, *, markers: bool = False) -> dict[Any, dict[str, Any]]:
    """Colour, line style and marker of each row of the table."""
    palette = sns.color_palette("colorblind")
    looks: dict[Any, dict[str, Any]] = {}
    for row in layout.rows:
        index = layout.order.index(row)
        looks[row] = {"color": palette[index % len(palette)], "linestyle": LINES[index % len(LINES)], "linewidth": 1.5}
        looks[row] |= {"marker": MARKERS[index % len(MARKERS)] if markers else None, "markersize": 3}
    return looks


def _line(axes: Axes, series: pd.DataFrame, x: str, look: dict[str, Any]) -> None:
    axes.fill_between(series[x], series["low"], series["high"], color=look["color"], alpha=0.2, linewidth=0)
    lonely = {"marker": "o"} if len(series) == 1 else {}  # a single point makes no line
    axes.plot(series[x], series["mean"], **{**look, **lonely})


def _why(cell: Cell) -> str:
    if not cell.finished:
        return "not finished"
    return "diverged" if cell.diverged == cell.finished else "no file"


def _figure(
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


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")]
    figure.savefig(paths[0], dpi=DOTS_PER_INCH)
    figure.savefig(paths[1], metadata={"CreationDate": None})  # the same results give the same bytes
    return paths
