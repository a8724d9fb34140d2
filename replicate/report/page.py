"""The report page: everything that was found, in one HTML file that needs no network."""

import base64
import hashlib
import os
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from replicate.options import DATA_DIR, OUT, Selection
from replicate.plugins import registered
from replicate.report.activations import activation_rows
from replicate.report.charts import init_report, page_charts, read_charts
from replicate.report.document import Document, comparable_number, places, strict_json, unreadable
from replicate.report.findings import description, findings, reasons
from replicate.report.render import environment
from replicate.report.statistics import LEVEL, mcnemar
from replicate.store.files import write_atomically
from replicate.store.measurements import Labels, read_predictions
from replicate.store.result import BadRecordError, reason_of
from replicate.store.run_folder import PREDICTIONS, RunFolder
from replicate.yamlfile import assignment

SCRIPTS = ("uplot/uPlot.iife.min.js", "charts.js", "save.js", "page.js")  # in this order
# The labels of the images that runs with this `dataset` and `validation` are tested on; None: not available
LabelsOf = Callable[[str, int], Labels | None]
Scale = tuple[float, float]  # from, to
# whether each test image is classified correctly, by the indices of column and row, and by seed
Answers = dict[int, dict[int, dict[int, npt.NDArray[np.bool_]]]]


def matrix_command(file: Path, selection: Selection, out: Path, fixed: Mapping[str, object] = {}) -> str:
    """The command that repeats the runs of a report, or only those with fixed values of some fields.

    It is to be typed in the current folder. Runs that have finished are not repeated in their own output folder, so the
    command names a new one below `results/local`.

    Args:
        file: the experiment file, as given.
        selection: as given.
        out: the output folder of the report.
        fixed: field of Run -> its value.
    """
    only = [word for word in selection.only if word.partition("=")[0] not in fixed]
    only += [assignment(field, value) for field, value in fixed.items()]
    words = ["replicate", "matrix", _typed(file)]
    words += ["--set", *map(shlex.quote, selection.set)] if selection.set else []
    words += ["--only", *map(shlex.quote, only)] if only else []
    words += [word for path in selection.plugin for word in ("--plugin", _typed(path))]
    words += ["--data-dir", _typed(selection.data_dir)] if selection.data_dir != DATA_DIR else []
    return " ".join([*words, "--out", _typed(OUT / f"{out.resolve().name}-again")])


def _typed(path: Path) -> str:
    """A path as a word for the shell: relative if it is below the current folder, else from ~ if below the user's."""
    for folder, prefix in ((Path.cwd(), ""), (Path(os.path.expanduser("~")), "~/")):
        if path.is_relative_to(folder):
            return prefix + shlex.quote(str(path.relative_to(folder)))
    return shlex.quote(str(path))


def write_report(
    doc: Document, out: Path, folder: Path, command: Callable[..., str], labels_of: LabelsOf
) -> list[Path]:
    """Write `index.html`, the page, and `report.json`, which has the same content as data.

    `report.json` is the mapping of `replicate.report.document` with these additions: `charts` (see `page_charts`);
    `activations`, those of the table (see `activation_rows`);
    `own_inits`, name -> description of the initialisations of plugins;
    `mcnemar`, a list from `compare_pairs`; `command`, which repeats all runs; and, for each of `cells`, `command` and
    `init`, a list from `init_report`. `unreadable` also lists the files next to the records.

    Args:
        doc: of the table to report on, which may hold no record. The additions are made in it.
        out: the output folder, which also holds the curves, the measurements of the layers and the predictions.
        folder: for both files; it is created if needed.
        command: `matrix_command` as the report was asked for; its keyword `fixed` is left open.
        labels_of: see LabelsOf.
    """
    charts = read_charts(doc, out)
    answers, bad_predictions = correct_answers(doc, out, labels_of)
    init_of = {run["run_id"]: run["init"] for run in doc["runs"]}
    for cell in doc["cells"]:
        cell["init"] = init_report(init_of[run_id] for run_id in cell["run_ids"])
        values = (cell["row"], cell["column"])
        cell["command"] = command(fixed=dict(zip(doc["axes"], values, strict=True))) if cell["expected"] else ""
    doc["unreadable"] += unreadable({**charts["bad"], **bad_predictions})
    doc["charts"] = page_charts(doc, charts)
    doc["activations"] = activation_rows(doc, charts["dead"])
    doc["mcnemar"] = compare_pairs(doc, answers)
    doc["own_inits"] = {name: text for plugin in registered() for name, text in plugin.inits}
    doc["command"] = command()
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"index.html": render_page(doc), "report.json": strict_json(doc, indent=None)}
    return [write_atomically(folder / name, text) for name, text in texts.items()]


def correct_answers(doc: Document, out: Path, labels_of: LabelsOf) -> tuple[Answers, dict[Path, str]]:
    """Find which test images the converged runs classify correctly; the arguments are as in `write_report`.

    Returns:
        The answers of the runs that have predictions; and file -> what is wrong with it.
    """
    found: Answers = defaultdict(lambda: defaultdict(dict))
    bad = {}
    cells = places(doc)
    for run in doc["runs"]:
        folder = RunFolder(out / "runs" / run["run_id"])
        path = folder.path / PREDICTIONS
        if run["status"] != "converged" or not path.exists():
            continue
        labels = labels_of(run["run"]["dataset"], run["run"]["validation"])
        if labels is not None:
            row, column = cells[run["run_id"]]
            try:
                found[column][row][run["run"]["seed"]] = read_predictions(folder).correct(labels)
            except (BadRecordError, OSError) as error:
                bad[path] = reason_of(error)
    return found, bad


def compare_pairs(doc: Document, answers: Answers) -> list[Document]:
    """Compare the nets of each column with each other, seed by seed, on the same test images.

    Returns:
        One mapping per pair of cells: `column`, value of the table's second axis; `first`, `second`, the rows of the
        two; `seeds`, which converged in both; and, for each seed, `only_first` and `only_second`, the number of test
        images that only this net classifies correctly, and `p`, McNemar's p-value. `significant`: number of seeds whose
        p-value is below 5 %.
    """
    pairs = []
    for column, rows in answers.items():
        for first, second in combinations(rows, 2):
            ours, theirs = rows[first], rows[second]
            if seeds := sorted(ours.keys() & theirs.keys()):
                only_first = [int((ours[seed] & ~theirs[seed]).sum()) for seed in seeds]
                only_second = [int((theirs[seed] & ~ours[seed]).sum()) for seed in seeds]
                p = list(map(mcnemar, only_first, only_second))
                pair = {"column": doc["columns"][column]["value"]}
                pair |= {"first": doc["rows"][first]["value"], "second": doc["rows"][second]["value"], "seeds": seeds}
                pair |= {"only_first": only_first, "only_second": only_second, "p": p}
                pairs.append({**pair, "significant": sum(value < 1 - LEVEL for value in p)})
    return pairs


def render_page(doc: Document) -> str:
    """Render the page from the content of `report.json`, and from that only."""
    jinja = environment(autoescape=True)
    jinja.globals["position"] = position
    jinja.filters["reasons"] = reasons
    jinja.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    scripts = [_asset(name) for name in SCRIPTS]
    return jinja.get_template("page.html.j2").render(
        doc=doc,
        description=description(doc),
        findings=findings(doc),
        runs={run["run_id"]: run for run in doc["runs"]},
        scale=accuracy_scale(doc["cells"]),
        full_shade=full_shade(doc["cells"]),
        effect_scale=effect_scale(doc["claims"]),
        styles=[Markup(_asset("uplot/uPlot.min.css")), Markup(_asset("page.css"))],  # not input
        scripts=map(Markup, scripts),
        # by which the content security policy allows the scripts
        script_hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        licence=_asset("uplot/LICENSE"),
    )


def _asset(name: str) -> str:
    return (files("replicate.report") / "assets" / name).read_text(encoding="utf-8")


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
    """The difference from the paper that gets the full colour: the largest, at least 0.5 points; 0 if there is none."""
    differences = [abs(cell["verdict"]["difference"]) for cell in cells if cell["verdict"]["difference"] is not None]
    return max([0.5, *differences]) if differences else 0.0


def effect_scale(claims: Iterable[Document]) -> dict[str, Scale]:
    """The scale of all effects of a unit: 0 to 100 for %, and symmetric around zero for points."""
    points = [claim["effect"] for claim in claims if claim["effect"] and claim["effect"]["unit"] != "%"]
    reach = max([1.0, *(abs(end) for effect in points for end in (effect["value"], *(effect["interval"] or ())))])
    return {"%": (0.0, 100.0), "points": (-reach, reach)}
