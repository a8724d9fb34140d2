"""The state of an experiment at a glance: its cells, and how many of their runs are done, failed and missing."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from replicate.experiment import Experiment
from replicate.report.axes import title
from replicate.results import Records
from replicate.run import Run
from replicate.untrusted import printable

WORDS = {"converged": "converged", "not_converged": "n/c", "diverged": "diverged", "error": "error"}


def overview(experiment: Experiment, runs: Sequence[Run], records: Records, out: Path) -> Group:
    """Lay out a table of the cells for a terminal, and a line of totals.

    Args:
        experiment: gives the table's axes.
        runs: that were asked for.
        records: what there is of them.
        out: the folder they are in, for the title.
    """
    rows, columns = experiment.table.rows, experiment.table.columns
    # as Text: a folder named [bold] is no markup
    table = Table(title=Text(printable(f"{experiment.name} in {out}")), title_justify="left")
    table.add_column(rows)
    for column in dict.fromkeys(getattr(run, columns) for run in runs):
        table.add_column(title(column), justify="right")
    for row in dict.fromkeys(getattr(run, rows) for run in runs):
        cells = []
        for column in dict.fromkeys(getattr(run, columns) for run in runs):
            cells.append(_cell([r for r in runs if getattr(r, rows) == row and getattr(r, columns) == column], records))
        table.add_row(title(row), *cells)
    return Group(table, _totals(runs, records))


def _cell(runs: Sequence[Run], records: Records) -> str:
    if not runs:
        return "–"
    found = [records.results[run.run_id] for run in runs if run.run_id in records.results]
    counts = Counter(result.status for result in found)
    errors = counts.pop("error", 0)
    text = f"{len(found) - errors}/{len(runs)}"
    failed = counts["not_converged"] + counts["diverged"]
    text += f" ({failed} n/c)" if failed else ""
    return text + (f" [red]{errors} error{'s' * (errors > 1)}[/red]" if errors else "")


def _totals(runs: Sequence[Run], records: Records) -> str:
    counts = Counter(result.status for result in records.results.values())
    parts = [f"{counts[status]} {word}" for status, word in WORDS.items() if counts[status]]
    parts.append(f"{len(runs) - len(records.results)} to do")
    if records.bad:
        parts.append(f"{len(records.bad)} unreadable records")
    if records.others:
        parts.append(f"{records.others} records of other settings in the folder")
    return f"{len(runs)} runs: {', '.join(parts)}"
