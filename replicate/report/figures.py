"""The figures of an experiment, from its table to files with captions. Accuracies are drawn here, lines elsewhere."""

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from seaborn.utils import relative_luminance

from replicate.report.charts import read_charts
from replicate.report.document import Document, comparable_number, number_and_counts
from replicate.report.findings import NOUNS
from replicate.report.line_figures import STYLE, Picture, curves, layers, line_style, panels, weight_spectra
from replicate.store.files import write_atomically

# the colours read the same with and without colour blindness
MAP: dict[str, Any] = {"cmap": "cividis", "cbar": False, "linewidths": 1}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
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
        initial = ("variance after initialisation", "variance of the pre-activation")
        gradients = ("gradients through the layers", "L2 norm of the gradient")
        pictures = {
            "accuracy": heat_map(doc),
            "accuracy_by_init": strip(doc),
            "curves": curves(doc, charts["curves"]["test_accuracy"]),
            "init_variance": layers(doc, measured["init_variance"], *initial),
            "layer_variance": layers(doc, measured["variance"], "variance through the layers", "variance"),
            "layer_gradient": layers(doc, measured["gradient_norm"], *gradients, target=None),
            "weight_spectra": weight_spectra(doc, charts["spectra"]),
        }
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


def heat_map(doc: Document) -> Picture:
    """Draw mean accuracies and, if the table shows them, the published ones next to them.

    If none of them compares, each panel has its own colour scale: on a common one, our cells would all look alike.
    """
    cells = doc["cells"]
    texts = [
        "\n".join(filter(None, (cell["shown"][key] for key in ("number", "counts", "progress")))) for cell in cells
    ]
    grids = [("ours", [cell["mean"] for cell in cells], texts)]
    notes = ["Mean ± standard deviation over n converged runs; n/c: most runs did not converge; –: not run."]
    compared = doc["summary"]["published"].keys() != {"not comparable"}
    if doc["reference"]:
        numbers = [cell["published"] if isinstance(cell["published"], float) else None for cell in cells]
        title = "paper" if compared else "paper (not comparable)"
        grids.append((title, numbers, [cell["shown"]["published"] for cell in cells]))
        notes.append("Both panels have the same colour scale." if compared else "Each panel has its own colour scale.")
        notes += doc["summary"]["not_comparable"]
    rows, columns = ([one["title"] for one in doc[axis]] for axis in ("rows", "columns"))
    shape = (len(rows), len(columns))
    size = (len(grids) * (0.95 * max(shape[1], 2) + (0.6 if compared else 1.2)) + 3.0, 0.68 * shape[0] + 1.7)
    figure = Figure(figsize=size, layout="constrained")
    drawn = [*zip(figure.subplots(1, len(grids), sharey=True, squeeze=False)[0], grids, strict=True)]
    for scale in [drawn] if compared else [[panel] for panel in drawn]:
        known = [value for _, (_, values, _) in scale for value in values if value is not None]
        low, high = (min(known), max(known)) if known else (0.0, 100.0)
        for axes, (_, values, _) in scale:
            means = np.array(values, float).reshape(shape)
            sns.heatmap(means, vmin=low, vmax=high, ax=axes, xticklabels=columns, yticklabels=rows, **MAP)
        if known:
            bar = figure.colorbar(scale[0][0].collections[0], ax=[axes for axes, _ in scale], shrink=0.9, pad=0.015)
            bar.set_label("test accuracy (%)")
            bar.ax.set_frame_on(False)
    for axes, (title, values, shown) in drawn:
        colours = axes.collections[0].to_rgba(np.array(values, float))
        for index, text in enumerate(shown):
            y, x = divmod(index, shape[1])
            # of black and white, what contrasts more; a cell without a number is light
            dark = values[index] is not None and relative_luminance(colours[index]) < 0.18
            axes.text(x + 0.5, y + 0.5, text, color="white" if dark else "0.1", **CENTRED)
        axes.set(title=title, facecolor="0.93")
        axes.grid(visible=False)
        axes.tick_params(length=0, rotation=0)
    return Picture(figure, "test accuracy in %", tuple(notes))


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
