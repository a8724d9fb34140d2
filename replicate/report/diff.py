"""Two output folders on the terminal, cell by cell."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.names import ACTIVATIONS, INITS
from replicate.options import OUT
from replicate.report.document import Document, document, number_and_counts
from replicate.report.statistics import welch
from replicate.report.text import count, display_name, interval_text, signed, terminal_text
from replicate.store.run_folder import Records, collect, read_records, recorded

Key = tuple[Any, Any]  # row, column


def read_table(path: Path) -> Document:
    """Lay out the records of an output folder as a table (see `document`), and add `out`, the folder.

    Args:
        path: an output folder, all of whose records are taken; or an experiment file, whose runs are taken from its
            default output folder.

    Raises:
        UsageError: no run has finished, the runs of a cell differ by more than their seed, or the records were made on
            more than one data set.
    """
    if path.suffix in (".yaml", ".yml"):
        experiment = Experiment.load(path)
        out, runs = OUT / experiment.name, experiment.runs()
        records = collect(out, runs, experiment.more_runs(runs))
    else:
        out, records = path, Records(*read_records(recorded(path)), others=0)
        runs = tuple(result.run for result in records.results.values())
        inits = tuple(dict.fromkeys((*INITS, *(run.init for run in runs))))  # those of plugins too
        experiment = Experiment(name="folder", grid={"init": inits, "activation": tuple(ACTIVATIONS)})
    if not any(result.final for result in records.results.values()):
        raise UsageError(f"{out} holds no finished run to compare; give two output folders or experiment files")
    try:
        return {**document(experiment, runs, records), "out": str(out)}
    except UsageError as error:  # the advice after the semicolon is for commands with --only, --set and --out
        reason = str(error).partition(";")[0]
        raise UsageError(f"{out}: {reason}; compare folders that hold one experiment each") from None


def compare(a: Document, b: Document, console: Console) -> None:
    """Print what differs between two tables from `read_table`: settings, images, code, and the accuracy of each cell.

    Raises:
        UsageError: no cell is in both.
    """
    ours, theirs = _cells(a), _cells(b)
    both = [key for key in ours if key in theirs]
    if not both:
        raise UsageError(f"no cell is in both {a['out']} and {b['out']}")
    for name, doc in (("A", a), ("B", b)):
        runs = count(doc["summary"]["finished"], "finished run")
        console.print(terminal_text(f"{name}: {doc['out']}: {runs}, {doc['protocol']['shown']['summary']}"))
    console.print(terminal_text(" ".join(_differing(a, b))))
    numbers = [Column(name, justify="right") for name in ("A", "B", "B − A", "95 % interval")]
    table = Table("cell", *numbers, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for key in both:
        cells = ours[key], theirs[key]
        texts = (ours[key]["name"], *map(number_and_counts, cells), *_difference(*cells))
        table.add_row(*map(terminal_text, texts))
    console.print("", table, "", *(terminal_text(note, "dim") for note in _notes(a, b, both)), sep="\n")


def _difference(a: Document, b: Document) -> tuple[str, str]:
    """The mean accuracy of cell `b` less that of `a`, and Welch's interval if both have two converged runs, as text."""
    if a["nc"] and b["mean"] is not None:
        return "n/c only in A", ""
    if b["nc"] and a["mean"] is not None:
        return "n/c only in B", ""
    if a["mean"] is None or b["mean"] is None:
        return "", ""
    if min(a["converged"], b["converged"]) < 2:
        return signed(b["mean"] - a["mean"]), ""
    found = welch(b["accuracies"], a["accuracies"])
    return signed(found.value), interval_text(found.interval, with_sign=True)


def _cells(doc: Document) -> dict[Key, Document]:
    """The cells that have runs, by row and column."""
    return {(cell["row"], cell["column"]): cell for cell in doc["cells"] if cell["expected"]}


def _differing(a: Document, b: Document) -> Iterator[str]:
    ours, theirs = a["protocol"], b["protocol"]
    settings = [
        f"{name} ({display_name(value)} and {display_name(other)})"
        for name, value in ours["settings"].items()
        if (other := theirs["settings"].get(name, value)) != value
    ]
    yield f"The settings differ in {', '.join(settings)}." if settings else "The settings are the same."
    if ours["fingerprint"] != theirs["fingerprint"]:
        yield "The images differ."
    if len(commits := {one["commit"] for doc in (a, b) for one in doc["provenance"]["code"]}) > 1:
        yield f"The runs were made by {len(commits)} different versions of the code."


def _notes(a: Document, b: Document, both: Sequence[Key]) -> Iterator[str]:
    yield (
        "Test accuracy in %: mean ± standard deviation of the converged runs. Differences are in percentage points, "
        "and their intervals are Welch's, for each cell by itself; they need two converged runs on both sides."
    )
    if warning := a["protocol"]["warning"] or b["protocol"]["warning"]:
        yield warning
    for name, doc in (("A", a), ("B", b)):
        cells = _cells(doc)
        yield from (f"{cell['name']} in {name}: {note}" for cell in cells.values() for note in cell["notes"])
        if only_here := [cell["name"] for key, cell in cells.items() if key not in both]:
            yield f"Only in {name}: {', '.join(only_here)}."
        if doc["unreadable"]:
            yield f"{count(len(doc['unreadable']), 'record')} in {name} cannot be read."
