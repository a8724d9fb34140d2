import base64
import hashlib
import html
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_lines import parse
from made_up_records import LABELS, ROOT, make_result, write_predictions

from replicate.matrix.plan import Selected
from replicate.report import page as report_page
from replicate.report.document import document
from replicate.report.page import CommandLine, correct_answers, render_page, write_report
from replicate.report.table import Table
from replicate.run import Run
from replicate.store.measurements import Labels
from replicate.store.run_folder import RunFolder

HOSTILE = "</script><script>alert(1)</script>&'\""


def write(table: Table, out: Path, labels: Labels | None = LABELS) -> tuple[str, str]:
    """Write a report; return the page and report.json."""
    page, data = write_report(table, out, CommandLine(Path("experiments/small.yaml")), lambda dataset: labels)
    return page.read_text(encoding="utf-8"), data.read_text(encoding="utf-8")


def test_golden_files(everything: Table, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    page, data = write(everything, tmp_path)
    text = re.sub(r"(<(script|style)>).*?(</\2>)", r"\1\3", page, flags=re.S)
    golden("index.html", re.sub(r"sha256-[^']*", "sha256-", text))
    golden("report.json", data)
    assert render_page(json.loads(data)) == page


def test_it_needs_nothing_from_outside_and_allows_only_its_scripts(everything: Table, tmp_path: Path) -> None:
    page, data = write(everything, tmp_path, labels=None)
    (charts,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert json.loads(charts) == json.loads(data)["charts"]
    tags = re.findall(r"<(?:script|link|img|iframe|object|embed|source|use)\b[^>]*>", page)
    assert tags == ['<link rel="icon" href="data:,">', '<script type="application/json" id="data">', *["<script>"] * 2]
    assert not re.search(r"url\(|@import", page)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])  # type: ignore[index]
    assert policy.startswith("default-src 'none'; ")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-(.*?)'", policy) == hashes
    assert 'id="pairs"' not in page  # which needs the labels


def test_hostile_records_stay_text(everything: Table, tmp_path: Path) -> None:
    hostile = {"data_label": HOSTILE, "commit": HOSTILE, "device": HOSTILE}
    results = tuple(replace(result, **hostile) for result in everything.results)
    content = {"schema": 1, "run_id": HOSTILE, "fingerprint": "f", "moments": []}
    (tmp_path / "runs" / results[0].run.run_id / "layers.json").write_text(json.dumps(content))
    page, data = write(replace(everything, results=results), tmp_path)
    doc = json.loads(data)
    doc["charts"]["rows"] = [HOSTILE]
    for text in (page, render_page(doc)):
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "layers.json</code>: run_id is" in page


def test_scales(everything: Table) -> None:
    assert [report_page.position(value, (10, 20)) for value in (5, 10, 12.5, 99)] == [0, 0, 25, 100]
    assert report_page.position(5, (5, 5)) == 50
    # effects of a unit share a scale, from -4 to 4; shares are from 0 to 100 %
    effects = [("points", 1.0, [-1.0, 4.0]), ("points", -2.0, None), ("%", 25.0, [0.0, 50.0])]
    claims = [{"effect": dict(zip(("unit", "value", "interval"), effect, strict=True))} for effect in effects]
    assert report_page.effect_scale([*claims, {"effect": None}]) == {"points": (-4.0, 4.0), "%": (0.0, 100.0)}
    cells = document(everything)["cells"]
    # the lowest number is the paper's for Xavier × ReLU; runs that did not converge are not on the scale
    assert report_page.accuracy_scale(cells) == (90.63, 94.2)
    assert report_page.full_shade(cells) == 0.5  # all differences are below half a point
    assert (report_page.accuracy_scale([]), report_page.full_shade([])) == (None, 0)


def test_answers_of_converged_runs_with_predictions(tmp_path: Path) -> None:
    runs = [Run("lsuv", "relu", seed) for seed in range(4)]
    results = [make_result(run, 75.0) for run in runs]
    results[1] = replace(results[1], status="not_converged")
    folders = [RunFolder.of(tmp_path, run).path for run in runs]
    for folder in folders[:3]:  # the last has none
        folder.mkdir(parents=True)
        write_predictions(folder, 75.0, seed=0)
    (folders[2] / "predictions.npz").write_bytes(b"torn")
    found, bad = correct_answers(results, tmp_path, lambda dataset: LABELS)
    assert {name: one.tolist() for name, one in found.items()} == {runs[0].run_id: [False] * 2500 + [True] * 7500}
    assert [path.parent for path in bad] == [folders[2]]
    found, bad = correct_answers(results, tmp_path, lambda dataset: np.roll(LABELS, 1))  # other labels
    assert (found, [path.parent for path in bad]) == ({}, [folders[0], folders[2]])


def test_the_charts_are_drawn_by_the_published_library() -> None:
    script = (ROOT / "replicate/report/assets/uplot/uPlot.iife.min.js").read_bytes()
    digest = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert b"uPlot (v1.6.32)" in script[:80]
    assert hashlib.sha256(script).hexdigest() == digest


def test_private_folders_are_not_published() -> None:
    assert CommandLine(Path("/home/me/secret/experiments/a.yaml")).text() == "replicate matrix experiments/a.yaml"


@pytest.mark.parametrize(
    ("settings", "only", "cell"),
    [
        (("dataset=folder:jpeg",), ("init=lsuv,xavier", "seed=0,1"), {"init": "lsuv", "activation": "tanh"}),
        (("milestones=[[40,60],[50]]", "iterations=90"), (), {"milestones": (40, 60), "init": "msra"}),
        (("clip_norm=[null,5.5]",), ("init=lsuv",), {"clip_norm": None, "activation": "relu"}),
        (("mirror=true,false", "lr=0.1,1e-12"), (), {"mirror": False, "lr": 1e-12}),
    ],
)
def test_the_command_gives_exactly_the_runs_of_the_cell(
    settings: tuple[str, ...], only: tuple[str, ...], cell: dict[str, object]
) -> None:
    file = ROOT / "experiments" / "table3.yaml"
    command_line = CommandLine(file, settings, only)

    def runs(command: str) -> set[Run]:
        _, arguments = parse(shlex.split(command)[1:])
        return set(Selected.load(file, arguments["selection"]).runs)

    wanted = {run for run in runs(command_line.text()) if all(getattr(run, key) == cell[key] for key in cell)}
    assert wanted
    assert runs(command_line.text(cell)) == wanted
