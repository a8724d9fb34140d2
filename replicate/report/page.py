"""The report page: everything that was found, in one HTML file that needs no network."""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from replicate.report.charts import init_report, page_charts, read_charts
from replicate.report.document import Document, comparable_number, document, strict_json, unreadable
from replicate.report.render import environment
from replicate.report.statistics import Correct, compare_pairs
from replicate.report.table import Table
from replicate.store.files import write_atomically
from replicate.store.measurements import Labels, read_predictions
from replicate.store.result import BadRecordError, Result, reason_of
from replicate.store.run_folder import PREDICTIONS, RunFolder

LabelsOf = Callable[[str], Labels | None]  # test labels of a data set, by the name that a run gives it
MIN_FULL_SHADE = 0.5  # points; smaller differences from the paper never get the full colour
Scale = tuple[float, float]  # from, to


@dataclass(frozen=True, slots=True)
class CommandLine:
    """How a report was asked for, and the commands that repeat its runs.

    Args:
        file: the experiment file, as given.
        settings: the words of `--set`.
        only: the words of `--only`.
    """

    file: Path
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def text(self, fixed: Mapping[str, object] = {}) -> str:
        """The command that carries out the runs of the report, or only those with fixed values of some fields.

        Args:
            fixed: field of Run -> its value.
        """
        # the page may be published, and the folders above the file's own are private
        file = Path(*self.file.parts[-2:]) if self.file.is_absolute() else self.file
        only = [word for word in self.only if word.partition("=")[0] not in fixed]
        for field, value in fixed.items():
            only.append(f"{field}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}")
        words = ["replicate", "matrix", str(file)]
        words += ["--only", *only] if only else []
        words += ["--set", *self.settings] if self.settings else []
        return shlex.join(words)


def write_report(table: Table, out: Path, command_line: CommandLine, labels_of: LabelsOf) -> list[Path]:
    """Write `out/report/index.html`, the page, and `out/report/report.json`, which has the same content as data.

    `report.json` is the mapping of `replicate.report.document` with these additions: `charts` (see `page_charts`);
    `mcnemar`, a list from `compare_pairs`; `command`, which makes all runs; and, for each of `cells`, `command` and
    `init`, a list from `init_report`. `unreadable` also lists the files next to the records.

    Args:
        table: what to report on; it may hold no record.
        out: the output folder, which also holds the curves, the measurements of the layers and the predictions.
        command_line: how the report was asked for.
        labels_of: test labels of a data set; None if they are not available.
    """
    doc, charts = document(table), read_charts(table, out)
    correct, bad_predictions = correct_answers(table.results, out, labels_of)
    init_of = {run["run_id"]: run["init"] for run in doc["runs"]}
    for cell in doc["cells"]:
        cell["init"] = init_report(init_of[run_id] for run_id in cell["run_ids"])
        values = (cell["row"], cell["column"])
        cell["command"] = command_line.text(dict(zip(table.axes, values, strict=True))) if cell["expected"] else ""
    doc["unreadable"] += unreadable({**charts.bad, **bad_predictions})
    doc["charts"] = page_charts(table, charts)
    doc["mcnemar"] = compare_pairs((result.run for result in table.results), table.axes, correct)
    doc["command"] = command_line.text()
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": render_page(doc), "report.json": strict_json(doc, indent=None)}
    return [write_atomically(folder / name, text) for name, text in texts.items()]


def correct_answers(
    results: Iterable[Result], out: Path, labels_of: LabelsOf
) -> tuple[dict[str, Correct], dict[Path, str]]:
    """Find which test images the converged runs classify correctly; the arguments are those of `write_report`.

    Returns:
        run_id -> one truth value per test image, for runs that have predictions; and file -> what is wrong with it.
    """
    found, bad = {}, {}
    for result in results:
        folder = RunFolder.of(out, result.run)
        path = folder.path / PREDICTIONS
        if result.status == "converged" and path.exists() and (labels := labels_of(result.run.dataset)) is not None:
            try:
                found[folder.run_id] = read_predictions(folder).correct(labels)
            except (BadRecordError, OSError) as error:
                bad[path] = reason_of(error)
    return found, bad


def render_page(doc: Document) -> str:
    """Render the page from the content of `report.json`, and from that only."""
    jinja = environment(autoescape=True)
    jinja.globals["position"] = position
    jinja.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    assets = files("replicate.report") / "assets"
    styles, scripts = (
        [(assets / name).read_text(encoding="utf-8") for name in names]
        for names in (("uplot/uPlot.min.css", "page.css"), ("uplot/uPlot.iife.min.js", "page.js"))
    )
    return jinja.get_template("page.html.j2").render(
        doc=doc,
        runs={run["run_id"]: run for run in doc["runs"]},
        scale=accuracy_scale(doc["cells"]),
        full_shade=full_shade(doc["cells"]),
        effect_scale=effect_scale(doc["claims"]),
        styles=map(Markup, styles),  # files of this package, not input
        scripts=map(Markup, scripts),
        # by which the content security policy allows the scripts
        script_hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        licence=(assets / "uplot/LICENSE").read_text(encoding="utf-8"),
    )


def position(value: float, scale: Scale) -> float:
    """Where a value is on a scale, from 0 to 100 %; a scale of a single value has everything in the middle."""
    low, high = scale
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2) if high > low else 50.0


def accuracy_scale(cells: Sequence[Document]) -> Scale | None:
    """The range of our accuracies and of the published numbers that compare; None if no run has converged."""
    ours = [accuracy for cell in cells if not cell["nc"] for accuracy in cell["accuracies"]]
    paper = [number for cell in cells if (number := comparable_number(cell)) is not None]
    return (min(ours + paper), max(ours + paper)) if ours else None


def full_shade(cells: Iterable[Document]) -> float:
    """The difference from the paper, in points, that gets the full colour; 0 if there is none at all."""
    differences = [abs(cell["verdict"]["difference"]) for cell in cells if cell["verdict"]["difference"] is not None]
    return max([MIN_FULL_SHADE, *differences]) if differences else 0.0


def effect_scale(claims: Iterable[Document]) -> dict[str, Scale]:
    """The scale of all effects of a unit: 0 to 100 for %, and symmetric around zero for points."""
    effects: list[dict[str, Any]] = [claim["effect"] for claim in claims if claim["effect"]]
    points = [effect for effect in effects if effect["unit"] != "%"]
    reach = max([1.0, *(abs(end) for effect in points for end in (effect["value"], *(effect["interval"] or ())))])
    return {"%": (0.0, 100.0), "points": (-reach, reach)}
