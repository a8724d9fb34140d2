"""A table as CSV, for spreadsheets: a row a cell, or a row a run."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from replicate.store.files import escape_control_chars
from replicate.store.result import Result

if TYPE_CHECKING:
    from replicate.report.table import Entry, Table

RESULT_COLUMNS = (
    *("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second", "data_label"),
    *("fingerprint", "commit", "dirty", "device", "finished"),
)


def cells_csv(table: "Table") -> str:
    """Every number of the table, a row a cell; a missing value is empty."""
    return _csv([_cell_row(table, *place, entry) for place, entry in table.entries.items()])


def runs_csv(results: Iterable[Result]) -> str:
    """Every record, a row a run: its settings, and the scalars of its result."""
    return _csv([_run_row(result) for result in results])


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _cell_row(table: "Table", row: object, column: object, entry: "Entry") -> dict[str, object]:
    cell, said = entry.cell, entry.verdict
    interval = cell.interval if cell else None
    return {
        "experiment": table.name,
        table.axes[0]: _plain(row),
        table.axes[1]: _plain(column),
        "expected": cell.expected if cell else 0,
        "finished": cell.finished if cell else 0,
        "converged": cell.converged if cell else 0,
        "not_converged": cell.not_converged if cell else 0,
        "diverged": cell.diverged if cell else 0,
        "errors": cell.errors if cell else 0,
        "missing": cell.missing if cell else 0,
        "nc": cell.nc if cell else "",
        "mean": _plain(cell.mean if cell else None),
        "sd": _plain(cell.sd if cell else None),
        "interval_low": _plain(interval.low if interval else None),
        "interval_high": _plain(interval.high if interval else None),
        "seeds": _plain(cell.seeds if cell else ()),
        "accuracies": _plain(cell.accuracies if cell else ()),
        "published": _plain(entry.published),
        "difference": _plain(said.difference),
        "prediction_half_width": _plain(said.half_width),
        "verdict": said.word,
        "reason": said.reason,
        "notes": " ".join(table.footnotes[index] for index in entry.notes),
        "data_label": table.protocol.data_label,
        "fingerprint": table.protocol.fingerprint,
    }


def _run_row(result: Result) -> dict[str, object]:
    settings = {name: _plain(value) for name, value in asdict(result.run).items()}
    record = {name: _plain(getattr(result, name)) for name in RESULT_COLUMNS}
    last = (result.error or "").strip().splitlines()[-1:]  # of a traceback, the line that names the exception
    return {"run_id": result.run.run_id, **settings, **record, "error": _plain(escape_control_chars("".join(last)))}


def _plain(value: object) -> object:
    """A value as CSV holds it: lists with spaces between, None as nothing, numbers to ten digits, without noise."""
    if isinstance(value, tuple):
        return " ".join(str(_plain(item)) for item in value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"  # a spreadsheet would take it for a formula
    return f"{value:.10g}" if isinstance(value, float) else "" if value is None else value
