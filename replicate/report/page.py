"""The report page: everything that was found, in one HTML file that needs no network."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from replicate.report.charts import charts
from replicate.report.command_line import CommandLine
from replicate.report.document import Document, document, strict_json, unreadable
from replicate.report.frames import read_frames
from replicate.report.init_report import init_report
from replicate.report.mcnemar import compare, correct_answers
from replicate.report.render import environment, package_file
from replicate.report.table import Table
from replicate.store.files import escape_control_chars, write_atomically

if TYPE_CHECKING:
    from replicate.store.predictions import Labels

# Characters that end a script element or a line of JavaScript; JSON takes them escaped as well.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
MIN_FULL_SHADE = 0.5  # points; smaller differences to the paper never get the full colour


def write_report(
    table: Table,
    out: Path,
    command_line: CommandLine,
    labels_of: Callable[[str], "Labels | None"] = lambda dataset: None,
) -> list[Path]:
    """Write `out/report/index.html`, the page, and `out/report/report.json`, which has the same content as data.

    Args:
        table: what to report on; it may hold no record.
        out: the output folder, which also holds the curves, the measurements of the layers and the predictions.
        command_line: how the report was asked for.
        labels_of: test labels of a data set; None if it is not available.
    """
    doc = page_document(table, out, command_line, labels_of)
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": render_page(doc), "report.json": strict_json(doc, indent=None)}
    return [write_atomically(folder / name, text) for name, text in texts.items()]


def page_document(
    table: Table, out: Path, command_line: CommandLine, labels_of: Callable[[str], "Labels | None"]
) -> Document:
    """Lay out everything that the page shows, as plain data; the arguments are those of `write_report`.

    Returns:
        The mapping of `replicate.report.document`, with these additions: `charts` (see `replicate.report.charts`);
        `mcnemar`, a list of `replicate.report.mcnemar.compare`; `command`, which makes all runs; and, for each of
        `cells`, `command` and `init`, a list of `replicate.report.init_report`. `unreadable` also lists the files next
        to the records.
    """
    doc, frames = document(table), read_frames(table, out)
    correct, bad_predictions = correct_answers(table.results, out, labels_of)
    init_of = {run["run_id"]: run["init"] for run in doc["runs"]}
    for cell in doc["cells"]:
        cell["init"] = init_report(init_of[run_id] for run_id in cell["run_ids"])
        cell["command"] = command_line.cell(table.axes, (cell["row"], cell["column"])) if cell["expected"] else ""
    return {
        **doc,
        "unreadable": [*doc["unreadable"], *unreadable({**frames.bad, **bad_predictions})],
        "charts": charts(table, frames),
        "mcnemar": compare((result.run for result in table.results), table.axes, correct),
        "command": command_line.whole(),
    }


def render_page(doc: Document) -> str:
    """Render the page from the mapping of `page_document`, and from that only."""
    scripts = [package_file("assets/uplot/uPlot.iife.min.js"), package_file("assets/page.js")]
    jinja = environment(autoescape=True)
    jinja.filters |= {
        "printable_lines": lambda text: "\n".join(map(escape_control_chars, text.splitlines())),
        "short": lambda value: "–" if value is None else f"{value:.3g}",
    }
    jinja.globals["position"] = position
    return jinja.get_template("page.html.j2").render(
        doc=doc,
        runs={run["run_id"]: run for run in doc["runs"]},
        scale=accuracy_scale(doc["cells"]),
        full_shade=full_shade(doc["cells"]),
        effect_scale=effect_scale(doc["claims"]),
        data=Markup(embedded(doc["charts"])),
        # files of this package, none of them anybody's input
        styles=[Markup(package_file(f"assets/{name}")) for name in ("uplot/uPlot.min.css", "page.css")],
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_hash(script) for script in scripts],
        licence=package_file("assets/uplot/LICENSE"),
    )


def embedded(value: object) -> str:
    """JSON that is safe inside a script element, whatever its strings hold."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def position(value: float, scale: tuple[float, float]) -> float:
    """Where a value is on a scale, from 0 to 100 %; a scale of a single value has everything in the middle."""
    low, high = scale
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2) if high > low else 50.0


def accuracy_scale(cells: Iterable[Document]) -> tuple[float, float] | None:
    """The range of our accuracies and of the published numbers that compare; None if no run has converged."""
    ours: list[float] = []
    paper: list[float] = []
    for cell in cells:
        ours += [] if cell["nc"] else cell["accuracies"]
        comparable = cell["expected"] and cell["verdict"]["word"] != "not comparable"
        paper += [cell["published"]] if comparable and isinstance(cell["published"], float) else []
    return (min(ours + paper), max(ours + paper)) if ours else None


def full_shade(cells: Iterable[Document]) -> float:
    """The difference to the paper, in points, that gets the full colour; 0 if there is none at all."""
    differences = [abs(cell["verdict"]["difference"]) for cell in cells if cell["verdict"]["difference"] is not None]
    return max([MIN_FULL_SHADE, *differences]) if differences else 0.0


def effect_scale(claims: Iterable[Document]) -> dict[str, tuple[float, float]]:
    """The scale of all effects of a unit: 0 to 100 for %, and symmetric around zero for points."""
    effects: list[dict[str, Any]] = [claim["effect"] for claim in claims if claim["effect"]]
    points = [effect for effect in effects if effect["unit"] != "%"]
    reach = max([1.0, *(abs(end) for effect in points for end in (effect["value"], *(effect["interval"] or ())))])
    return {"%": (0.0, 100.0), "points": (-reach, reach)}


def _hash(script: str) -> str:
    """A script as a content security policy names it: the page runs these and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
