"""Renders a table's document as Markdown, LaTeX, CSV and JSON. Plain data in, text out."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from replicate.report import text
from replicate.report.document import COUNTS, Document, strict_json
from replicate.store.files import escape_control_chars, write_atomically

MAX_LENGTH = 1000  # characters of a text from a file
MARKDOWN = "\\`*_[]<&#~$"
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
    *("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second", "data_label"),
    *("fingerprint", "commit", "dirty", "device", "finished"),
)
FILTERS: dict[str, Callable[..., str]] = {
    "decimal": text.decimal,
    "signed": text.signed,
    "interval": text.interval_text,
    "name": text.display_name,
    "counted": text.count,
    "mark": text.footnote_mark,
    "last_line": text.last_line,
}


def write_table(doc: Document, folder: Path) -> list[Path]:
    """Write `table.md`, `table.tex`, `table.csv`, `runs.csv` and `table.json` to a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_atomically(folder / name, render(doc)) for name, render in RENDERERS.items()]


def package_file(name: str) -> str:
    """The text of a file of this package, by its path below `replicate/report`."""
    return files("replicate.report").joinpath(name).read_text(encoding="utf-8")


def environment(**options: Any) -> jinja2.Environment:
    """Jinja as all templates of the package use it."""
    found = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: package_file(f"templates/{name}")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    found.filters |= FILTERS
    return found


def markdown(doc: Document) -> str:
    """The whole report for people, as Markdown."""
    jinja = environment()
    jinja.filters |= {"md": escape_markdown, "pipe_table": pipe_table}
    made_by = doc["provenance"]
    commits = {f"{one['commit'][:12]}{' with changes' if one['dirty'] else ''}" for one in made_by["code"]}
    return jinja.get_template("table.md.j2").render(
        doc=doc,
        commits=sorted(map(escape_markdown, commits)),
        devices=sorted({escape_markdown(device["name"]) for device in made_by["devices"]}),
        grid=_grid(doc),
        cells=_cells(doc),
        claims=_claims(doc),
    )


def escape_markdown(value: str) -> str:
    """Make text from a file safe in Markdown: no markup, no HTML, no control characters."""
    return "".join(f"\\{one}" if one in MARKDOWN else one for one in escape_control_chars(value[:MAX_LENGTH]))


def pipe_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is aligned as plain text, too; the first row is its head."""
    clean = [[entry.replace("|", "\\|").replace("\n", " ") for entry in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in clean]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _grid(doc: Document) -> list[list[str]]:
    rows = [["", *(column["title"] for column in doc["columns"])]]
    width = len(doc["columns"])
    for index, row in enumerate(doc["rows"]):
        cells = doc["cells"][index * width : (index + 1) * width]
        rows.append([f"**{row['title']}**", *(_cell_text(cell, doc["footnotes"]) for cell in cells)])
        if doc["reference"]:
            rows.append(["paper", *(_published_text(cell) for cell in cells)])
    return rows


def _cell_text(cell: Mapping[str, Any], footnotes: list[str]) -> str:
    shown = cell["shown"]
    marks = [f"[{text.footnote_mark(footnotes.index(note))}]" for note in cell["notes"]]
    counts = f"({shown['counts']})" if shown["counts"] else ""
    return " ".join(filter(None, [shown["number"], counts, shown["progress"], *marks]))


def _published_text(cell: Mapping[str, Any]) -> str:
    shown = cell["shown"]
    judged = cell["published"] is not None and shown["verdict"]
    return f"{shown['published']} ({shown['verdict']})" if judged else shown["published"]


def _cells(doc: Document) -> list[list[str]]:
    head = ["cell", "finished", "converged", "mean", "SD", "95 % interval"]
    rows = [[*head, "paper", "ours − paper", "± prediction", "verdict"]]
    for cell in doc["cells"]:
        if cell["expected"]:
            verdict = cell["verdict"]
            words = [verdict["word"], verdict["reason"] if verdict["word"] in ("", "not judged") else ""]
            ours = [cell["name"], f"{cell['finished']}/{cell['expected']}", str(cell["converged"])]
            ours += [text.decimal(cell["mean"]), text.decimal(cell["sd"]), text.interval_text(cell["interval"])]
            paper = [cell["shown"]["published"], text.signed(verdict["difference"])]
            paper += [text.decimal(verdict["half_width"]), ": ".join(filter(None, words)) if doc["reference"] else ""]
            rows.append([*ours, *paper])
    return rows


def _claims(doc: Document) -> list[list[str]]:
    rows = [["claim", "verdict", "effect", "95 % interval", "reason"]]
    for claim in doc["claims"]:
        shown = claim["shown"]
        verdict = f"**{claim['verdict']}**"
        rows.append([escape_markdown(claim["text"]), verdict, shown["effect"], shown["interval"], claim["reason"]])
    return rows


def latex(doc: Document) -> str:
    """The grid as a LaTeX `table` that fits a column of text; without a document around it, it makes its own page."""
    jinja = environment(
        variable_start_string="<<",
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        comment_start_string="<#",
        comment_end_string="#>",
        finalize=lambda value: escape_latex(str(value)),  # everything that is not the template's own
    )
    # labels may hold no LaTeX characters, escaped or not
    label = "".join(one if one.isascii() and one.isalnum() else "-" for one in doc["experiment"])
    return jinja.get_template("table.tex.j2").render(doc=doc, label=label)


def escape_latex(value: str) -> str:
    """Make text safe in LaTeX; a character that pdflatex cannot print becomes a question mark."""
    printable = (one if one.isprintable() and ord(one) < 0x180 else "?" for one in value)  # Latin, with accents
    return "".join(LATEX.get(one, other) for one, other in zip(value, printable, strict=True))


def cell_rows(doc: Document) -> list[dict[str, Any]]:
    """The numbers of each place of the table as one flat row: for CSV and for W&B."""
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


def cells_csv(doc: Document) -> str:
    """All numbers of the table, one row per cell; a missing value is empty."""
    return _csv(cell_rows(doc))


def runs_csv(doc: Document) -> str:
    """Every record, one row per run: its settings, and the scalars of its result."""
    rows = []
    for run in doc["runs"]:
        error = escape_control_chars(text.last_line(run["error"])) if (run["error"] or "").strip() else ""
        row = {"run_id": run["run_id"], **run["run"], **{name: run[name] for name in RESULT_COLUMNS}, "error": error}
        rows.append({name: _scalar(value) for name, value in row.items()})
    return _csv(rows)


def _scalar(value: object) -> object:
    """A value that fits one place of a row: lists as text with spaces between, numbers to ten digits, without noise."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"  # a spreadsheet would take it for a formula
    if isinstance(value, list):
        return " ".join(str(_text(item)) for item in value)
    return float(f"{value:.10g}") if isinstance(value, float) else value


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _text(value: object) -> object:
    """`94` for 94.0; other values as they are."""
    return f"{value:.10g}" if isinstance(value, float) else value


RENDERERS: dict[str, Callable[[Document], str]] = {
    "table.md": markdown,
    "table.tex": latex,
    "table.csv": cells_csv,
    "runs.csv": runs_csv,
    "table.json": strict_json,
}
