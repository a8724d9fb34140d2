"""What tests read off a drawn figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [text.get_text() for text in found.get_texts()]


def texts(axes: Axes) -> list[str]:
    """Texts from left to right, from top to bottom."""
    return [text.get_text() for text in sorted(axes.texts, key=lambda t: (t.get_position()[1], t.get_position()[0]))]


def xs(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_xdata(), dtype=float))


def ys(line: Line2D) -> list[float]:
    return list(np.asarray(line.get_ydata(), dtype=float))
