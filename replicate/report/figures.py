"""The figures of an experiment: from its table to files, with their captions."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

from replicate.report.accuracy_figures import heat_map, strip
from replicate.report.frames import read_frames
from replicate.report.line_figures import curves, init_variance, layers, weight_spectra
from replicate.report.panels import STYLE, Picture
from replicate.report.table import Table
from replicate.store.files import write_atomically

DOTS_PER_INCH = 150
LETTERS_PER_INCH = 15  # of the notes
NO_LAYERS = "no record has a layers.json"


def draw(table: Table, out: Path, folder: Path, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Draw a table's figures, each as PNG and as PDF, and write their captions to `captions.md`.

    Args:
        table: of which at least one run has finished.
        out: the output folder, which also holds the curves and what was measured in the layers.
        folder: where to; it is made if need be.
        say: called with a line for each figure that there is nothing for, and each file that could not be read.

    Returns:
        The files.
    """
    mpl.use("agg")  # seaborn's grids are pyplot's, which would look for a display
    frames = read_frames(table, out)
    for path, reason in frames.bad.items():
        say(f"left out: {path}: {reason}")
    paths, captions, left_out = [], [f"# {table.name}: captions of the figures"], []
    with mpl.rc_context(STYLE):
        pictures = {
            "accuracy": (heat_map(table), ""),
            "accuracy_by_init": (strip(table), ""),
            "curves": (curves(table, frames), "no record has a learning curve"),
            "init_variance": (init_variance(table, frames), "no record holds a report of its initialisation"),
            "layer_variance": (layers(table, frames, "variance"), NO_LAYERS),
            "layer_gradient": (layers(table, frames, "gradient_norm"), NO_LAYERS),
            "weight_spectra": (weight_spectra(table, frames), NO_LAYERS),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, (picture, reason) in pictures.items():
            if picture is None:
                left_out.append(f"{name} is left out: {reason}")
                continue
            title, notes = f"{table.name}: {picture.title}", [_runs(table), *picture.notes]
            paths += _save(picture, title, notes, folder / name)
            captions.append(f"**{name}.** {' '.join([f'{title}.', *notes])}")
    for line in left_out:
        say(line)
    text = "\n\n".join([*captions, *left_out]) + "\n"
    return [*paths, write_atomically(folder / "captions.md", text)]


def _runs(table: Table) -> str:
    """Data, schedule, precision and number of runs."""
    counts = sorted({cell.finished for cell in table.cells})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return f"{table.protocol.texts()['summary']}; runs per cell: {number}."


def _save(picture: Picture, title: str, notes: list[str], stem: Path) -> list[Path]:
    """Write a figure as PDF, which leaves its title and notes to a paper's caption, and as PNG, which shows them."""
    figure, png, pdf = picture.figure, stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    figure.savefig(pdf, metadata={"CreationDate": None})  # the same results give the same bytes
    width = int(figure.get_figwidth() * LETTERS_PER_INCH)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("\n".join(line for note in notes for line in textwrap.wrap(note, width)), fontsize=8)
    figure.savefig(png, dpi=DOTS_PER_INCH)
    return [png, pdf]
