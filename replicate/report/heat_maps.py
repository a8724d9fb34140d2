"""Figures with one coloured, labelled square per cell of the table: accuracies, and how fast the runs learn."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from seaborn.utils import relative_luminance

from replicate.report.charts import Chart
from replicate.report.document import Document, places
from replicate.report.line_figures import Picture

# the colours read the same with and without colour blindness
MAP: dict[str, Any] = {"cmap": "cividis", "cbar": False, "linewidths": 1}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
SHARES = (50, 80)  # in % of a run's final accuracy
SPEED = "Speed: median over the finished runs; runs that share a machine slow each other down."
PASSES = (
    "Passes: median over the finished runs. Those of LSUV end at the layer that is measured; each of MetaInit is "
    "followed by three backward passes."
)
MEASURED = (  # field of the records, title, unit, note
    ("images_per_second", "speed of training", "images per second", SPEED),
    ("init_passes", "passes of the initialisation", "forward passes", PASSES),
)
MIN_TESTS = 5  # with fewer, the iterations to a share of the accuracy say little


class Panel(NamedTuple):
    """One heat map: a number, or None, and a text for each cell, row by row."""

    title: str
    values: Sequence[float | None]
    texts: Sequence[str]
    unit: str


def heat_map(doc: Document) -> Picture:
    """Draw mean accuracies and, if the table shows them, the published ones next to them.

    If none of them compares, each panel has its own colour scale: on a common one, our cells would all look alike.
    """
    cells, unit = doc["cells"], "test accuracy (%)"
    texts = [
        "\n".join(filter(None, (cell["shown"][key] for key in ("number", "counts", "progress")))) for cell in cells
    ]
    panels = [Panel("ours", [cell["mean"] for cell in cells], texts, unit)]
    notes = ["Mean ± standard deviation over n converged runs; n/c: most runs did not converge; –: not run."]
    compared = doc["summary"]["published"].keys() != {"not comparable"}
    if doc["reference"]:
        numbers = [cell["published"] if isinstance(cell["published"], float) else None for cell in cells]
        title = "paper" if compared else "paper (not comparable)"
        panels.append(Panel(title, numbers, [cell["shown"]["published"] for cell in cells], unit))
        notes.append("Both panels have the same colour scale." if compared else "Each panel has its own colour scale.")
        notes += doc["summary"]["not_comparable"]
    return Picture(_draw(doc, panels, one_scale=compared), "test accuracy in %", tuple(notes))


def cost(doc: Document, chart: Chart) -> Picture | None:
    """Draw after how many iterations runs reach 50 and 80 % of their final accuracy, and what these cost.

    Args:
        doc: of the table.
        chart: of the test accuracy.
    """
    needed: dict[tuple[int, int], list[Sequence[int]]] = {}
    for line in chart["lines"]:
        if line["kind"] == "run":
            points = {at: y for at, y in zip(chart["x"], line["y"], strict=True) if y is not None}
            needed.setdefault((line["row"], line["column"]), []).append(iterations_to(points))
    if not needed:
        return None
    panels, notes = [], []
    if len(chart["x"]) >= MIN_TESTS:
        cells = [divmod(index, len(doc["columns"])) for index in range(len(doc["cells"]))]
        converged = [cell["mean"] is not None for cell in doc["cells"]]
        for index, share in enumerate(SHARES):
            means = [
                fmean(run[index] for run in needed[cell]) if is_shown and cell in needed else None
                for cell, is_shown in zip(cells, converged, strict=True)
            ]
            panels.append(_panel(doc, f"to {share} % of the final accuracy", means, "iterations"))
        notes.append(
            "Iterations: mean over a cell's converged runs, of the first test with that share of the accuracy of the "
            "last one; tests follow each pass over the training images."
        )
    for name, title, unit, note in MEASURED:
        values = _medians(doc, name)
        if any(value is not None for value in values):
            panels.append(_panel(doc, title, values, unit))
            notes.append(note)
    return Picture(_draw(doc, panels, one_scale=False), "what it takes to learn", tuple(notes)) if panels else None


def iterations_to(points: Mapping[int, float]) -> list[int]:
    """Return the first iterations at which a run reaches each of `SHARES` of its last accuracy.

    Args:
        points: iteration -> test accuracy, in ascending order.
    """
    *_, last = points.values()
    return [next(at for at, accuracy in points.items() if accuracy >= share / 100 * last) for share in SHARES]


def _medians(doc: Document, name: str) -> list[float | None]:
    """The median of a field of the records over the finished runs of each cell."""
    found: dict[tuple[int, int], list[float]] = {}
    at = places(doc)
    for run in doc["runs"]:
        if run[name] is not None and run["status"] != "error":
            found.setdefault(at[run["run_id"]], []).append(run[name])
    cells = (divmod(index, len(doc["columns"])) for index in range(len(doc["cells"])))
    return [median(found[cell]) if cell in found else None for cell in cells]


def _panel(doc: Document, title: str, values: Sequence[float | None], unit: str) -> Panel:
    absent = [cell["shown"]["number"] if cell["mean"] is None else "" for cell in doc["cells"]]
    texts = [other if value is None else f"{value:,.0f}" for value, other in zip(values, absent, strict=True)]
    return Panel(title, values, texts, unit)


def _draw(doc: Document, panels: Sequence[Panel], *, one_scale: bool) -> Figure:
    """Draw heat maps side by side, on one colour scale or each on its own."""
    rows, columns = ([one["title"] for one in doc[axis]] for axis in ("rows", "columns"))
    shape = (len(rows), len(columns))
    size = (len(panels) * (0.95 * max(shape[1], 2) + (0.6 if one_scale else 1.2)) + 3.0, 0.68 * shape[0] + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    drawn = [*zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True)]
    for scale in [drawn] if one_scale else [[one] for one in drawn]:
        known = [value for _, panel in scale for value in panel.values if value is not None]
        low, high = (min(known), max(known)) if known else (0.0, 100.0)
        for axes, panel in scale:
            numbers = np.array(panel.values, float).reshape(shape)
            sns.heatmap(numbers, vmin=low, vmax=high, ax=axes, xticklabels=columns, yticklabels=rows, **MAP)
        if known:
            bar = figure.colorbar(scale[0][0].collections[0], ax=[axes for axes, _ in scale], shrink=0.9, pad=0.015)
            bar.set_label(scale[0][1].unit)
            bar.ax.set_frame_on(False)
    for axes, panel in drawn:
        colours = axes.collections[0].to_rgba(np.array(panel.values, float))
        for index, text in enumerate(panel.texts):
            y, x = divmod(index, shape[1])
            # of black and white, what contrasts more; a cell without a number is light
            dark = panel.values[index] is not None and relative_luminance(colours[index]) < 0.18
            axes.text(x + 0.5, y + 0.5, text, color="white" if dark else "0.1", **CENTRED)
        axes.set(title=panel.title, facecolor="0.93")
        axes.grid(visible=False)
        axes.tick_params(length=0, rotation=0)
    return figure
