"""The figure of the learning curves."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from replicate.report.axes import title
from replicate.report.layout import LEVEL_LINE, STEP_LINE, Layout, looks_of, panels, plot_line
from replicate.report.statistics import Cell


def curves_figure(layout: Layout, curves: pd.DataFrame) -> Figure:
    """Draw test accuracy against iteration, a panel a column, a colour a row of the table.

    Args:
        layout: the table's.
        curves: of `learning_curves`.
    """
    chance = 100 / layout.protocol.classes if layout.protocol.classes else None
    milestones = layout.protocol.settings.get("milestones", ())
    looks = looks_of(layout)

    def panel(axes: Axes, column: object) -> None:
        for milestone in milestones:
            axes.axvline(milestone, zorder=1, **STEP_LINE)
        if chance is not None:
            axes.axhline(chance, zorder=1, **LEVEL_LINE)
        here = curves[curves["column"] == column]
        for (row, line), series in here.groupby(["row", "line"], sort=False):
            thin = {} if line == "converged" else {"linewidth": 0.7}
            plot_line(axes, series, "iteration", {**looks[row], **thin})
        if absent := [cell for cell in layout.cells if cell.column == column and cell.row not in set(here["row"])]:
            note = "\n".join(["no curve:", *(f"{title(cell.row)} ({_why(cell)})" for cell in absent)])
            axes.text(0.97, 0.2, note, transform=axes.transAxes, ha="right", fontsize=8, color="0.3")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(0, curves["iteration"].max())
        axes.set_ylim(0, min(100, 1.1 * max(curves["high"].max(), chance or 0)))

    last = curves.iloc[-1]
    keys = [Line2D([], [], label="chance", **LEVEL_LINE)] if chance is not None else []
    keys += [Line2D([], [], label="learning-rate step", **STEP_LINE)] if milestones else []
    return panels(
        layout,
        panel,
        [*(Line2D([], [], label=title(row), **look) for row, look in looks.items()), *keys],
        heading="test accuracy during training",
        x=f"iteration (one epoch: {last['iteration'] / last['epoch']:.4g})",
        y="test accuracy (%)",
        note="line: mean over a cell's converged runs; band: their range; thin line: a run that did not converge",
    )


def _why(cell: Cell) -> str:
    if not cell.finished:
        return "not finished"
    return "diverged" if cell.diverged == cell.finished else "no file"
