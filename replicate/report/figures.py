"""The figures of an experiment, from its table to files with captions."""

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from replicate.report.charts import read_charts
from replicate.report.column_figure import by_column
from replicate.report.document import Document, comparable_number, number_and_counts
from replicate.report.findings import NOUNS
from replicate.report.heat_maps import cost, heat_map
from replicate.report.line_figures import STYLE, Picture, curves, layers, line_style, panels, weight_spectra
from replicate.store.files import write_atomically

DOT: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5, "markeredgewidth": 0, "alpha": 0.6}
MEAN: dict[str, Any] = {"color": "0.1", "linewidth": 1.3, "marker": "_", "markersize": 9, "markeredgewidth": 1.6}
PAPER: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 5, "markerfacecolor": "none", "color": "0.1"}
UPRIGHT: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7, "color": "0.35"}
UPRIGHT["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # the grid must not strike the text through
MEAN_AT, PAPER_AT = 0.2, 0.4  # to the right of the runs


def draw(doc: Document, out: Path, folder: Path, report: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Draw a table's figures, each as PNG and as PDF, and write their captions to `captions.md`.

    Args:
        doc: of a table of which at least one run has finished.
        out: the output folder, which also holds the curves and the measurements of the layers.
        folder: for the figures; it is created if needed.
        report: called with a line for each file that could not be read, and one that names the figures without data.

    Returns:
        The files.
    """
    charts = read_charts(doc, out)
    for path, reason in charts["bad"].items():
        report(f"left out: {path}: {reason}")
    paths, captions, left_out = [], [f"# {doc['experiment']}: captions of the figures"], []
    runs = sorted({cell["finished"] for cell in doc["cells"] if cell["expected"]})
    number = f"{runs[0]} to {runs[-1]}" if len(runs) > 1 else f"{runs[0]}"
    header = f"{doc['protocol']['shown']['summary']}; runs per cell: {number}."
    first = [note for note in (doc["protocol"]["warning"], header) if note]
    with mpl.rc_context():
        mpl.rcdefaults()  # not the user's settings: figures look the same everywhere
        mpl.rcParams.update(STYLE)
        measured = charts["layers"]
        initial = ("variance after initialisation, on the images that it saw", "variance of the pre-activation")
        gradients = ("gradients through the layers", "L2 norm of the gradient")
        pictures = {
            "accuracy": heat_map(doc),
            "accuracy_by_init": strip(doc),
            "curves": curves(doc, charts["curves"]["test_accuracy"]),
            "cost": cost(doc, charts["curves"]["test_accuracy"]),
            "init_variance": layers(doc, measured["init_variance"], *initial),
            "layer_variance": layers(doc, measured["variance"], "variance through the layers", "variance"),
            "layer_gradient": layers(doc, measured["gradient_norm"], *gradients, target=None),
            "weight_spectra": weight_spectra(doc, charts["spectra"]),
        }
        if (picture := by_column(doc, measured["variance"].get(0))) is not None:
            pictures["by_column"] = picture
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            if picture is None:
                left_out.append(name)
                continue
            title, notes = f"{doc['experiment']}: {picture.title}", [*first, *picture.notes]
            paths += save(picture.figure, title, notes, folder / name)
            captions.append(f"**{name}.** {' '.join([f'{title}.', *notes])}")
    if left_out:
        captions.append(f"Left out, because no record has data for them: {', '.join(left_out)}.")
        report(captions[-1])
    text = "\n\n".join(captions) + "\n"
    return [*paths, write_atomically(folder / "captions.md", text)]


def save(figure: Figure, title: str, notes: list[str], stem: Path) -> list[Path]:
    """Write a figure as PDF, which leaves its title and notes to a paper's caption, and as PNG, which shows them."""
    png, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})  # the same results give the same bytes
    width = int(figure.get_figwidth() * 15)  # of the notes, with 15 letters per inch
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("\n".join(line for note in notes for line in textwrap.wrap(note, width)), fontsize=8)
    figure.savefig(png, format="png", dpi=150)
    files = {"png": png, "pdf": pdf}
    return [write_atomically(stem.with_name(f"{stem.name}.{kind}"), file.getbuffer()) for kind, file in files.items()]


def strip(doc: Document) -> Picture:
    """Draw the converged runs of each cell, their mean and its 95 % interval, and the paper's number if it compares."""
    keys = [Line2D([], [], label="a converged run", **{**DOT, "color": "0.4"})]
    if any(len(cell["accuracies"]) > 1 for cell in doc["cells"]):
        keys.append(Line2D([], [], label="mean and its 95 % interval", **MEAN))
    published = [comparable_number(cell) for cell in doc["cells"]]
    compared = any(number is not None for number in published)
    keys += [Line2D([], [], label="paper", **PAPER)] if compared else []
    figure, (line,) = panels(doc, "", "test accuracy (%)", keys)
    for index, cell in enumerate(doc["cells"]):
        row, column = divmod(index, len(doc["columns"]))
        axes, at, accuracies = line[column], row + MEAN_AT, cell["accuracies"]
        if cell["mean"] is not None:
            single = len(accuracies) == 1  # its own mean
            axes.plot([at if single else row] * len(accuracies), accuracies, **DOT, color=line_style(row)["color"])
            if not single:
                axes.plot([at], [cell["mean"]], **MEAN)
        elif cell["expected"]:
            axes.text(at, 0.03, number_and_counts(cell), transform=axes.get_xaxis_transform(), **UPRIGHT)
        if cell["interval"]:
            axes.plot([at, at], cell["interval"], color=MEAN["color"], linewidth=MEAN["linewidth"])
        if (number := published[index]) is not None:
            axes.plot([row + PAPER_AT], [number], **PAPER)
    places = np.arange(len(doc["rows"])) + MEAN_AT
    for axes in line:
        axes.set_xticks(places, [row["title"] for row in doc["rows"]], rotation=30, ha="right", fontsize=8)
        axes.set_xlim(-0.4, len(places) - 0.2)
    if not compared and all(cell["mean"] is None for cell in doc["cells"]):
        line[0].set_ylim(0, 100)
    bottom, top = line[0].get_ylim()
    line[0].set_ylim(max(bottom, 0), min(top, 100))  # the interval of two runs can lead far beyond
    axis = doc["axes"][0]
    note = "n/c (k/m): k of m finished runs did not converge, which is more than half; … k/m: k of m have finished."
    return Picture(figure, f"final test accuracy by {NOUNS.get(axis, axis)}", (note,))
