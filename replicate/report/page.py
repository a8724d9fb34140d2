"""The report page: everything that was found, in one HTML file that needs no network."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from replicate.experiment import Experiment
from replicate.report.axes import title
from replicate.report.charts import charts
from replicate.report.document import document, strict_json, unreadable
from replicate.report.layers import measured_layers
from replicate.report.markdown import decimal, last_line, letter, number_text, signed
from replicate.report.mcnemar import Pair, correct_answers, pairs
from replicate.report.origins import origins
from replicate.report.page_view import accuracy_scale, cell_views, claim_views, largest_difference
from replicate.report.reproduce import Source
from replicate.report.summary import summarise
from replicate.report.table import Table, assemble
from replicate.run import Run
from replicate.store.files import escape_control_chars, write_atomically
from replicate.store.run_folder import Records

if TYPE_CHECKING:
    from replicate.store.predictions import Labels

ASSETS = files("replicate.report") / "assets"
# Characters that end a script element or a line of JavaScript; JSON takes them escaped as well.
ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_report(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    out: Path,
    source: Source,
    labels_of: Callable[[str], "Labels | None"] = lambda dataset: None,
) -> list[Path]:
    """Write `out/report/index.html`, the page, and `out/report/report.json`, all that it shows for other programs.

    The JSON is that of `replicate.report.document` with two keys more: `charts`, of `replicate.report.charts`, and
    `mcnemar`, a list of `replicate.report.mcnemar.Pair` with the p-value of each seed.

    Args:
        experiment: names the axes, the published numbers and the claims.
        runs: to report on.
        records: what `out` holds of them; there may be none.
        out: the output folder, which also holds the curves and what was measured in the layers.
        source: how the report was asked for.
        labels_of: test labels of a data set; None if it is not at hand.

    Raises:
        UsageError: the records were made on different data sets, a cell mixes settings, or a file of published numbers
            or claims is wrong.
    """
    table = assemble(experiment, runs, records)
    measured = measured_layers(table.results, out)
    drawn = charts(table, out, measured)
    correct, bad_predictions = correct_answers(table.results, out, labels_of)
    compared = pairs(runs, table.axes, correct)
    page = render(table, drawn, source, compared, {**measured.bad, **bad_predictions})
    folder = out / "report"
    folder.mkdir(parents=True, exist_ok=True)
    content = {**document(table), "charts": drawn, "mcnemar": [{**asdict(pair), "p": pair.p} for pair in compared]}
    texts = {"index.html": page, "report.json": strict_json(content, indent=None)}
    return [write_atomically(folder / name, text) for name, text in texts.items()]


def render(
    table: Table, drawn: Mapping[str, Any], source: Source, compared: Sequence[Pair], bad_files: Mapping[Path, str]
) -> str:
    """Lay out the page.

    Args:
        table: what it shows.
        drawn: what its charts draw.
        source: how it was asked for.
        compared: pairs of cells, by McNemar's test.
        bad_files: files next to records that could not be read, each with its reason.
    """
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "title_of": title,
        "signed": signed,
        "decimal": decimal,
        "letter": letter,
        "number_text": number_text,
        "last_line": last_line,
        "printable_lines": lambda text: "\n".join(map(escape_control_chars, text.splitlines())),
        "short": lambda value: "–" if value is None else f"{value:.3g}",
    }
    scripts = [_asset("uplot/uPlot.iife.min.js"), _asset("page.js")]
    return environment.get_template("page.html.j2").render(
        table=table,
        summary=summarise(table),
        cells=cell_views(table, source),
        claims=claim_views(table.judgements),
        pairs=compared,
        scale=accuracy_scale(table.entries.values()),
        full_shade=largest_difference(table.entries.values()),
        origins=origins(table.results),
        unreadable=unreadable({**table.bad, **bad_files}),
        command=source.whole(),
        charts=drawn,
        data=Markup(embedded(drawn)),
        # files of this package, none of them anybody's input
        styles=[Markup(_asset(name)) for name in ("uplot/uPlot.min.css", "page.css")],
        scripts=[Markup(script) for script in scripts],
        script_hashes=[_hash(script) for script in scripts],
        licence=_asset("uplot/LICENSE"),
    )


def embedded(value: object) -> str:
    """JSON that can stand in a script element, whatever its strings hold."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def _asset(name: str) -> str:
    return ASSETS.joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A script as a content security policy names it: the page runs these and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
