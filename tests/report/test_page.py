import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_up_records import LABELS

from replicate.experiment import Experiment
from replicate.report.command_line import CommandLine
from replicate.report.document import document
from replicate.report.page import (
    accuracy_scale,
    effect_scale,
    embedded,
    full_shade,
    position,
    render_page,
    write_report,
)
from replicate.report.render import package_file
from replicate.report.table import Table, assemble
from replicate.store.run_folder import Records

COMMAND_LINE = CommandLine(Path("experiments/small.yaml"))
HOSTILE = "</script><script>alert(1)</script>&'\""


def written(table: Table, out: Path) -> str:
    page, _ = write_report(table, out, COMMAND_LINE, lambda dataset: LABELS)
    return page.read_text(encoding="utf-8")


def test_golden_files(everything: Table, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    page, data = write_report(everything, tmp_path, COMMAND_LINE, lambda dataset: LABELS)
    text = re.sub(r"(<(script|style)>).*?(</\2>)", r"\1\3", page.read_text(encoding="utf-8"), flags=re.S)
    golden("index.html", re.sub(r"sha256-[^']*", "sha256-", text))
    golden("report.json", data.read_text(encoding="utf-8"))


def test_the_page_shows_what_report_json_holds_and_nothing_else(everything: Table, tmp_path: Path) -> None:
    page, data = write_report(everything, tmp_path, COMMAND_LINE, lambda dataset: LABELS)
    assert render_page(json.loads(data.read_text())) == page.read_text(encoding="utf-8")


def test_it_needs_nothing_from_outside(everything: Table, tmp_path: Path) -> None:
    text = written(everything, tmp_path)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    tags = re.findall(r"<(?:script|link|img|iframe|object|embed|source|use)\b[^>]*>", text.replace(data[0], ""))
    assert tags == ['<link rel="icon" href="data:,">', "<script>", "<script>"]
    assert not re.search(r"url\(|@import", text)


def test_its_policy_names_its_two_scripts_and_no_other(everything: Table, tmp_path: Path) -> None:
    text = written(everything, tmp_path)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', text)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert len(hashes) == 2


@given(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False, allow_infinity=False)))
@example({"label": HOSTILE})
def test_embedded_data_cannot_end_its_element(value: dict[str, object]) -> None:
    text = embedded(value)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == value


def test_embedded_data_are_strict_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded(float("nan"))


def test_hostile_records_stay_text(everything: Table, tmp_path: Path) -> None:
    hostile = {"data_label": HOSTILE, "commit": HOSTILE, "device": HOSTILE}
    results = tuple(replace(result, **hostile) for result in everything.results)
    (tmp_path / "runs" / results[0].run.run_id / "layers.json").write_text(
        json.dumps({"schema": 1, "run_id": HOSTILE, "fingerprint": "f", "moments": []})
    )
    text = written(replace(everything, results=results), tmp_path)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "layers.json</code>: run_id is" in text


def test_without_labels_there_are_no_pairs(everything: Table, tmp_path: Path) -> None:
    page, data = write_report(everything, tmp_path, COMMAND_LINE)
    assert 'id="pairs"' not in page.read_text()
    assert json.loads(data.read_text())["mcnemar"] == []


def test_a_report_on_nothing(small: Experiment, make_records: Callable[..., Records], tmp_path: Path) -> None:
    text = written(assemble(small, small.runs(), make_records([])), tmp_path)
    assert "No run has finished yet." in text
    assert "Nothing has run yet." in text


def test_scales() -> None:
    assert [position(value, (10, 20)) for value in (5, 10, 12.5, 99)] == [0, 0, 25, 100]
    assert position(5, (5, 5)) == 50
    # effects of a unit share a scale, from -4 to 4; shares are from 0 to 100 %
    effects = [("points", 1.0, [-1.0, 4.0]), ("points", -2.0, None), ("%", 25.0, [0.0, 50.0])]
    claims = [{"effect": dict(zip(("unit", "value", "interval"), effect, strict=True))} for effect in effects]
    assert effect_scale([*claims, {"effect": None}]) == {"points": (-4.0, 4.0), "%": (0.0, 100.0)}


def test_the_accuracy_scale_holds_ours_and_the_papers(everything: Table, tmp_path: Path) -> None:
    cells = document(everything)["cells"]
    # the lowest number is the paper's for Xavier × ReLU; what did not converge is not on the scale
    assert accuracy_scale(cells) == (90.63, 94.2)
    assert full_shade(cells) == 0.5  # all differences are below half a point
    assert (accuracy_scale([]), full_shade([])) == (None, 0)


def test_the_charts_are_drawn_by_the_published_library() -> None:
    script = package_file("assets/uplot/uPlot.iife.min.js")
    assert "uPlot (v1.6.32)" in script[:80]
    assert (
        hashlib.sha256(script.encode()).hexdigest()
        == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    )
    assert "MIT License" in package_file("assets/uplot/LICENSE")
