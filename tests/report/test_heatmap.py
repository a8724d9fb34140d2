from collections.abc import Callable
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from replicate.report.heatmap import accuracy_figure
from replicate.report.published import Published
from replicate.report.statistics import Cell

PAPER: dict[tuple[str, str], Published] = {
    ("lsuv", "relu"): 92.11,
    ("lsuv", "tanh"): 89.28,
    ("msra", "relu"): "n/c",
    ("lsuv", "maxout"): 99.0,  # not in our table
}


def texts(axes: Axes) -> list[str]:
    """Entries from left to right, from top to bottom."""
    return [text.get_text() for text in sorted(axes.texts, key=lambda t: (t.get_position()[1], t.get_position()[0]))]


def some_cells(make_cell: Callable[..., Cell]) -> list[Cell]:
    return [
        make_cell("lsuv", "relu", (91.0, 92.0, 93.0), not_converged=1, expected=4),
        make_cell("lsuv", "tanh", (88.0,)),
        make_cell("msra", "relu", diverged=2, expected=2),
    ]


def test_ours_and_the_papers_on_one_scale(make_cell: Callable[..., Cell]) -> None:
    figure = accuracy_figure("t", ("lsuv", "msra"), ("relu", "tanh"), some_cells(make_cell), PAPER, "CIFAR-10")
    ours, paper, bar = figure.axes
    assert texts(ours) == ["92.0 ± 1.0\nn=3, 1 n/c", "88.0\nn=1\n… 1/5", "n/c\n2/2", "–"]
    assert texts(paper) == ["92.11", "89.28", "n/c", "–"]
    assert [(axes.get_title()) for axes in (ours, paper)] == ["ours", "paper"]
    for axes in (ours, paper):
        mesh = axes.collections[0]
        assert isinstance(mesh, QuadMesh)
        assert mesh.get_clim() == (88.0, 92.11)
    assert [label.get_text() for label in ours.get_xticklabels()] == ["ReLU", "tanh"]
    assert [label.get_text() for label in ours.get_yticklabels()] == ["LSUV", "MSRA"]
    assert bar.get_ylabel() == "test accuracy (%)"
    assert figure.get_supxlabel().startswith("CIFAR-10\nmean ± standard deviation")


def test_only_failures_are_hatched(make_cell: Callable[..., Cell]) -> None:
    figure = accuracy_figure("t", ("lsuv", "msra"), ("relu", "tanh"), some_cells(make_cell), None, "")
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [(round(patch.get_y()), round(patch.get_x()), bool(patch.get_hatch())) for patch in patches] == [
        (1, 0, True),
        (1, 1, False),
    ]


def test_another_protocol_stands_in_the_title_or_under_the_figure(make_cell: Callable[..., Cell]) -> None:
    cells = some_cells(make_cell)
    shrunk = [replace(cell, run=replace(cell.run, width=0.5)) for cell in cells]
    arguments = ("t", ("lsuv", "msra"), ("relu", "tanh"))
    whole = accuracy_figure(*arguments, shrunk, PAPER, "")
    assert whole.axes[1].get_title() == "paper (not comparable: another data set or protocol)"
    part = accuracy_figure(*arguments, [*cells[:2], shrunk[2]], PAPER, "")
    assert part.axes[1].get_title() == "paper"
    assert part.get_supxlabel().endswith("not comparable with the paper: MSRA × ReLU")


def test_nothing_but_failures(make_cell: Callable[..., Cell]) -> None:
    figure = accuracy_figure("t", ("msra",), ("relu",), [make_cell("msra", "relu", diverged=2)], None, "")
    assert len(figure.axes) == 1  # without a colour bar, for there is no colour
    assert texts(figure.axes[0]) == ["n/c\n2/2\n… 2/5"]
