"""Renders a table's document as Markdown, LaTeX, CSV and JSON. Plain data in, text out."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from replicate.report import text
from replicate.report.document import COUNTS, Document, strict_json
from replicate.store.files import escape_control_chars, write_atomically

MARKDOWN = "\\`*_[]<&#~$|"
LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "|": "$|$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
}
RESULT_COLUMNS = (
    *(
        "status",
        "test_accuracy",
        "train_loss",
        "iteration",
        "seconds",
        "images_per_second",
        "init_passes",
        "data_label",
    ),
    *("fingerprint", "commit", "dirty", "device", "finished"),
)


def write_table(doc: Document, folder: Path) -> list[Path]:
    """Write `table.md`, `table.tex`, `table.csv`, `runs.csv` and `table.json` to a folder; create it if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_atomically(folder / name, render(doc)) for name, render in RENDERERS.items()]


def environment(**options: Any) -> jinja2.Environment:
    """Set up Jinja as all templates of the package use it."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("replicate.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    found.filters |= {
        "decimal": text.decimal,
        "signed": text.signed,
        "interval": text.interval_text,
        "short": lambda value: "–" if value is None else f"{value:.3g}",
        "name": text.display_name,
        "counted": text.count,
        "mark": text.footnote_mark,
        "last_line": text.last_line,
        "printable_lines": lambda lines: "\n".join(map(escape_control_chars, lines.splitlines())),
        "md": escape_markdown,
        "aligned": aligned,
    }
    return found


def markdown(doc: Document) -> str:
    """Render the whole document as Markdown."""
    code = doc["provenance"]["code"]
    commits = {f"{one['commit'][:12]}{' with changes' if one['dirty'] else ''}" for one in code}
    return environment().get_template("table.md.j2").render(doc=doc, commits=sorted(commits))


def escape_markdown(value: str) -> str:
    """Make the first 1,000 characters of a text safe in Markdown: no markup, no HTML, no control characters."""
    return "".join(f"\\{one}" if one in MARKDOWN else one for one in escape_control_chars(value[:1000]))


def aligned(table: str) -> str:
    """Align the columns of a Markdown table, whose first line is its head, so that it reads well as plain text."""
    rows = [[" ".join(entry.split()) for entry in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in rows]
    return "".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|\n", *lines[1:]])


def latex(doc: Document) -> str:
    """Render the table as a LaTeX `table` that fits the width of a text; outside a document it makes its own page."""
    jinja = environment(
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        finalize=lambda value: escape_latex(str(value)),  # all values, but not the template's own text
    )
    # labels may hold no LaTeX characters, escaped or not
    label = "".join(one if one.isascii() and one.isalnum() else "-" for one in doc["experiment"])
    return jinja.get_template("table.tex.j2").render(doc=doc, label=label)


def escape_latex(value: str) -> str:
    """Make text safe in LaTeX; a character that pdflatex cannot print becomes a question mark."""
    # below 0x180: Latin, with accents
    return "".join(LATEX.get(one, one if one.isprintable() and ord(one) < 0x180 else "?") for one in value)


def cell_rows(doc: Document) -> list[dict[str, Any]]:
    """The numbers of each cell as one flat row: for CSV and for W&B."""
    rows = []
    for cell in doc["cells"]:
        interval, verdict = cell["interval"] or (None, None), cell["verdict"]
        row = {"experiment": doc["experiment"], doc["axes"][0]: cell["row"], doc["axes"][1]: cell["column"]}
        row |= {name: cell[name] for name in (*COUNTS, "nc", "mean", "sd")}
        row |= {"interval_low": interval[0], "interval_high": interval[1]}
        row |= {name: cell[name] for name in ("seeds", "accuracies", "published")}
        row |= {"difference": verdict["difference"], "prediction_half_width": verdict["half_width"]}
        row |= {"verdict": verdict["word"], "reason": verdict["reason"], "notes": " ".join(cell["notes"])}
        row |= {name: doc["protocol"][name] for name in ("data_label", "fingerprint")}
        rows.append({name: _scalar(value) for name, value in row.items()})
    return rows


def run_rows(doc: Document) -> list[dict[str, Any]]:
    """Every record as one flat row: its settings, and the scalars of its result."""
    rows = []
    for run in doc["runs"]:
        error = escape_control_chars(text.last_line(run["error"])) if (run["error"] or "").strip() else ""
        row = {"run_id": run["run_id"], **run["run"], **{name: run[name] for name in RESULT_COLUMNS}, "error": error}
        rows.append({name: _scalar(value) for name, value in row.items()})
    return rows


def _scalar(value: object) -> object:
    """A value that fits into one field: lists as text with spaces between, numbers rounded to ten digits."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"  # a spreadsheet would take it for a formula
    if isinstance(value, list):
        return " ".join(f"{number:.10g}" for number in value)
    return float(f"{value:.10g}") if isinstance(value, float) else value


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV, under a line of names; a missing value is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:  # 94.0 is written as 94
        writer.writerow({name: f"{one:.10g}" if isinstance(one, float) else one for name, one in row.items()})
    return out.getvalue()


RENDERERS: dict[str, Callable[[Document], str]] = {
    "table.md": markdown,
    "table.tex": latex,
    "table.csv": lambda doc: to_csv(cell_rows(doc)),
    "runs.csv": lambda doc: to_csv(run_rows(doc)),
    "table.json": strict_json,
}
