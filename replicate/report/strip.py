"""The figure of the final accuracies: every run, and each cell's mean with its interval."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replicate.report.axes import title
from replicate.report.layout import Layout, looks_of, panels
from replicate.report.published import Published, incomparable

DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "alpha": 0.55, "markeredgewidth": 0}
MEAN: dict[str, Any] = {"color": "0.1", "linewidth": 1.3, "marker": "_", "markersize": 13, "markeredgewidth": 1.6}
PAPER: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 5, "markerfacecolor": "none", "color": "0.1"}
UPRIGHT: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7, "color": "0.35"}
ASIDE = 0.28  # how far the published number stands to the right of ours


def strip_figure(layout: Layout, published: Mapping[tuple[Any, Any], Published] | None) -> Figure:
    """Draw the converged runs of each cell, their mean and its 95 % interval, a panel a column, a colour a row.

    Args:
        layout: the table's.
        published: (row, column) -> accuracy in % or `n/c`; shown where it compares with ours.
    """
    looks = looks_of(layout)
    places = {row: index for index, row in enumerate(layout.rows)}
    beside = {
        (cell.row, cell.column): number
        for cell in layout.cells
        if isinstance(number := (published or {}).get((cell.row, cell.column)), float) and not incomparable(cell.run)
    }

    def panel(axes: Axes, column: object) -> None:
        for cell in (cell for cell in layout.cells if cell.column == column):
            x, number = places[cell.row], beside.get((cell.row, cell.column))
            if cell.mean is None:
                text = f"n/c ({cell.failed}/{cell.finished})" if cell.finished else f"… 0/{cell.expected}"
                axes.text(x, 0.03, text, transform=axes.get_xaxis_transform(), **UPRIGHT)
            else:
                axes.plot([x] * cell.converged, cell.accuracies, color=looks[cell.row]["color"], **DOT)
                reach = cell.interval
                axes.plot([x], [cell.mean], **MEAN)
                if reach:
                    axes.plot([x, x], [reach.low, reach.high], color=MEAN["color"], linewidth=MEAN["linewidth"])
            if number is not None:
                axes.plot([x + ASIDE], [number], **PAPER)
        axes.set_xticks(list(places.values()), [title(row) for row in places], rotation=30, ha="right", fontsize=8)
        axes.set_xlim(-0.6, len(places) - 0.4)
        axes.grid(visible=False, axis="x")

    keys = [
        Line2D([], [], color="0.4", label="a converged run", **DOT),
        Line2D([], [], label="mean and its 95 % interval", **MEAN),
    ]
    keys += [Line2D([], [], label="paper", **PAPER)] if beside else []
    return panels(
        layout,
        panel,
        keys,
        heading="final test accuracy by initialisation",
        x="",
        y="test accuracy (%)",
        note="n/c (k/m): k of m finished runs did not converge, which is more than half; … k/m: k of m have finished",
    )
