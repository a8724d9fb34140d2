import hashlib
import json
import re
import shlex
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from command_lines import parse
from made_up_records import LABELS, ROOT, make_records, make_result, write_predictions

from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.report import page
from replicate.report.document import Document, document
from replicate.report.statistics import mcnemar
from replicate.run import Run
from replicate.store.measurements import Labels
from replicate.store.run_folder import RunFolder


def write(doc: Document, out: Path, labels: Labels | None = LABELS) -> tuple[str, str]:
    """Write a report; return the page and report.json."""
    command = partial(page.matrix_command, Path("experiments/small.yaml"))
    html, data = page.write_report(doc, out, command, lambda dataset: labels)
    return html.read_text(encoding="utf-8"), data.read_text(encoding="utf-8")


def test_golden_files(everything: Document, tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    html, data = write(everything, tmp_path)
    text = re.sub(r"(<(script|style)>).*?(</\2>)", r"\1\3", html, flags=re.S)
    golden("index.html", re.sub(r"sha256-[^']*", "sha256-", text))
    golden("report.json", data)
    assert page.render_page(json.loads(data)) == html


def test_it_needs_nothing_from_outside(everything: Document, tmp_path: Path) -> None:
    html, data = write(everything, tmp_path, labels=None)
    (charts,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert json.loads(charts) == json.loads(data)["charts"]
    tags = re.findall(r"<(?:script|link|img|iframe|object|embed|source|use)\b[^>]*>", html)
    assert tags == ['<link rel="icon" href="data:,">', '<script type="application/json" id="data">', *["<script>"] * 2]
    assert not re.search(r"url\(|@import", html)
    assert "Content-Security-Policy\" content=\"default-src 'none'; " in html
    digests = [hashlib.sha256(script.encode()).digest() for script in re.findall(r"<script>(.*?)</script>", html, re.S)]
    assert re.findall(r"sha256-([^']*?)(?:&#39;|')", html) == [b64encode(digest).decode() for digest in digests]
    assert 'id="pairs"' not in html  # which needs the labels


def test_a_title_cannot_close_the_script_of_the_charts(everything: Document, tmp_path: Path) -> None:
    html, _ = write(everything, tmp_path)
    everything["charts"]["rows"] = ["</script>"]
    assert page.render_page(everything).count("</script>") == html.count("</script>")


def test_scales() -> None:
    assert [page.position(value, (10, 20)) for value in (5, 10, 12.5, 99)] == [0, 0, 25, 100]
    assert page.position(5, (5, 5)) == 50
    # effects of a unit share a scale, from -4 to 4; shares are from 0 to 100 %
    effects = [("points", 1.0, [-1.0, 4.0]), ("points", -2.0, None), ("%", 25.0, [0.0, 50.0])]
    claims = [{"effect": dict(zip(("unit", "value", "interval"), effect, strict=True))} for effect in effects]
    assert page.effect_scale([*claims, {"effect": None}]) == {"points": (-4.0, 4.0), "%": (0.0, 100.0)}


def test_answers_of_converged_runs_with_predictions(small: Experiment, tmp_path: Path) -> None:
    runs = small.runs({"init": "lsuv"})[:4]  # seeds 0, 0, 1 and 1 of maxout and ReLU
    results = [make_result(run, 75.0, status) for run, status in zip(runs, ("", "not_converged", "", ""), strict=True)]
    folders = [RunFolder.of(tmp_path, run).path for run in runs]
    for folder in folders[:3]:  # the last has none
        folder.mkdir(parents=True)
        write_predictions(folder, 75.0, seed=0)
    (folders[2] / "predictions.npz").write_bytes(b"torn")
    doc = document(small, small.runs(), make_records(results))
    found, bad = page.correct_answers(doc, tmp_path, lambda dataset: LABELS)
    assert [path.parent for path in bad] == [folders[2]]
    assert found[0][0][0].tolist() == [False] * 2500 + [True] * 7500
    assert [(column, row, *seeds) for column, rows in found.items() for row, seeds in rows.items()] == [(0, 0, 0)]
    found, bad = page.correct_answers(doc, tmp_path, lambda dataset: np.roll(LABELS, 1))  # other labels
    assert [path.parent for path in bad] == [folders[0], folders[2]]


def test_pairs_of_a_column_share_seeds() -> None:
    right = {  # by column, row and seed, on each test image
        0: {0: {0: [1] * 21 + [0] * 3, 1: [1, 0]}, 1: {0: [0] * 20 + [1] * 4, 1: [0, 1]}, 2: {1: [1, 0]}},
        1: {0: {0: [1]}, 1: {1: [1]}},
    }
    answers = {
        column: {row: {seed: np.array(images, bool) for seed, images in seeds.items()} for row, seeds in rows.items()}
        for column, rows in right.items()
    }
    titles = {"columns": [{"value": "relu"}], "rows": [{"value": name} for name in ("lsuv", "xavier", "msra")]}
    assert [list(pair.values()) for pair in page.compare_pairs(titles, answers)] == [
        ["relu", "lsuv", "xavier", [0, 1], [20, 1], [3, 1], [mcnemar(20, 3), 1.0], 1],
        ["relu", "lsuv", "msra", [1], [0], [0], [1.0], 0],
        ["relu", "xavier", "msra", [1], [1], [1], [1.0], 0],
    ]


def test_the_charts_are_drawn_by_the_published_library() -> None:
    script = (ROOT / "replicate/report/assets/uplot/uPlot.iife.min.js").read_bytes()
    digest = "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert b"uPlot (v1.6.32)" in script[:80]
    assert hashlib.sha256(script).hexdigest() == digest


def test_private_folders_are_not_published() -> None:
    assert page.matrix_command(Path("/home/me/secret/experiments/a.yaml")) == "replicate matrix experiments/a.yaml"


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

    def runs(command: str) -> set[Run]:
        _, arguments = parse(shlex.split(command)[1:])
        return set(Selected.load(file, arguments["selection"]).runs)

    asked = runs(page.matrix_command(file, settings, only))
    wanted = {run for run in asked if all(getattr(run, key) == cell[key] for key in cell)}
    assert wanted
    assert runs(page.matrix_command(file, settings, only, cell)) == wanted
