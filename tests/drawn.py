"""What tests read off a drawn figure, and the layout that they draw with."""

import matplotlib.colors
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replicate.experiment import Experiment
from replicate.report.layout import Layout
from replicate.report.protocol import protocol
from replicate.report.statistics import cells
from replicate.store.result import Result

AXES = ("init", "activation")


def layout(experiment: Experiment, results: list[Result]) -> Layout:
    runs = experiment.runs()
    grid = cells(runs, {result.run.run_id: result for result in results}, *AXES)
    rows, columns = experiment.grid["init"], experiment.grid["activation"]
    return Layout(experiment.name, rows, columns, grid, protocol(runs, results, AXES), rows)


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends or [found for axes in figure.axes if (found := axes.get_legend())]
    return [text.get_text() for text in found.get_texts()]


def xs(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_xdata(), dtype=float))


def ys(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata(), dtype=float))


def colours(axes: Axes) -> list[str]:
    return [matplotlib.colors.to_hex(line.get_color()) for line in axes.get_lines()]
