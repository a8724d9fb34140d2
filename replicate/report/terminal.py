"""A table in a few lines for a terminal; its files hold the rest."""

import re
import textwrap

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from replicate.report.document import Document
from replicate.report.findings import findings
from replicate.report.text import count, terminal_text

MARKS = {"consistent": "✓", "higher": "▲", "lower": "▼"}


def print_table(doc: Document, console: Console) -> None:
    """Print the accuracies of a document next to the published numbers, and what was found."""
    protocol = doc["protocol"]
    same = shared_count(doc)
    runs = "" if same is None else f", {'one run' if same == 1 else f'{same} runs'} per cell"
    console.print(terminal_text(f"{doc['experiment']}: test accuracy in %{runs}", "bold"))
    console.print(terminal_text(protocol["shown"]["summary"], "dim"))
    if protocol["warning"]:
        console.print(terminal_text(protocol["warning"], "bold yellow"))
    console.print(_grid(doc, same is None, console.width))
    console.print(terminal_text(_legend(doc), "dim"))
    errors, bad = doc["summary"]["errors"], len(doc["unreadable"])
    problems = [f"{count(errors, 'run')} ended in an error."] if errors else []
    problems += [f"{count(bad, 'record')} cannot be read."] if bad else []
    if problems:
        console.print(terminal_text(" ".join(problems), "yellow"))
    if found := " ".join(findings(doc)[1:]):  # the first sentence says which cells converged, and so does the table
        console.print(terminal_text(textwrap.shorten(found, 4 * console.width - 40, placeholder=" …")))  # four lines


def shared_count(doc: Document) -> int | None:
    """The number of runs of each cell, if it is the same and each cell has all or no converged runs; otherwise None."""
    cells = [cell for cell in doc["cells"] if cell["expected"]]
    whole = all(cell["converged"] in (0, cell["finished"]) for cell in cells)
    numbers = {cell[name] for cell in cells for name in ("finished", "expected")}
    return numbers.pop() if whole and len(numbers) == 1 else None


def _grid(doc: Document, with_counts: bool, width: int) -> Table:
    head = [Column("", no_wrap=True), *(Column(terminal_text(column["title"])) for column in doc["columns"])]
    table = Table(*head, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    name_width = 12 if width < 100 and (with_counts or doc["pooled"]) else 30  # where there is room for it
    for row in doc["rows"]:
        # here, because Rich does not wrap at hyphens, but cuts
        name = Text("\n").join(terminal_text(line, "bold") for line in textwrap.wrap(row["title"], name_width))
        cells = [cell for cell in doc["cells"] if cell["row"] == row["value"]]
        table.add_row(name, *(_ours(cell, with_counts) for cell in cells))
        if doc["reference"]:
            table.add_row(terminal_text("  paper", "dim"), *(_published(cell) for cell in cells))
    return table


def _ours(cell: Document, with_counts: bool) -> Text:
    shown, mixed = cell["shown"], cell["converged"] not in (0, cell["finished"]) or cell["errors"]
    number, counts = shown["number"], f" ({shown['counts']})" if with_counts and shown["counts"] else ""
    if shown["progress"]:  # a line is short: the files have the deviation, and `… 2/3` says how many runs there are
        number, counts = number.partition(" ±")[0], re.sub(r"n=\d+, ", "", counts) if mixed else ""
    return terminal_text(f"{number}{counts} {shown['progress']}".rstrip(), "yellow" if cell["nc"] else "")


def _published(cell: Document) -> Text:
    return terminal_text(f"{cell['shown']['published']} {MARKS.get(cell['verdict']['word'], '')}".rstrip(), "dim")


def _legend(doc: Document) -> str:
    found = ["n/c: not converged", "–: not run"]
    if doc["summary"]["finished"] < doc["summary"]["expected"]:
        found.append("… 2/5: 2 of 5 runs have finished")
    if doc["pooled"]:
        found.append("±: SD")
    if doc["summary"]["published"].keys() & MARKS.keys():
        found.append("✓ consistent, ours ▲ higher or ▼ lower")
    return "; ".join(found)
