import hashlib
import json
import re
import shlex
import subprocess
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from command_lines import parse
from made_up_records import LABELS, ROOT, make_records, make_result, many, write_predictions

from replicate.experiment import Experiment, TableSpec
from replicate.matrix.plan import Selected
from replicate.names import INITS
from replicate.options import OUT, Selection
from replicate.report import page
from replicate.report.document import Document, document
from replicate.report.statistics import mcnemar
from replicate.report.text import display_name
from replicate.run import Run
from replicate.store.measurements import Labels
from replicate.store.run_folder import RunFolder


def write(doc: Document, out: Path, labels: Labels | None = LABELS) -> tuple[str, str]:
    """Write a report; return the page and report.json."""
    command = partial(page.matrix_command, Path("experiments/small.yaml"), Selection(), Path("results/small"))
    html, data = page.write_report(doc, out, out / "report", command, lambda *_: labels)
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
    assert tags == ['<link rel="icon" href="data:,">', '<script type="application/json" id="data">', *["<script>"] * 4]
    assert not re.search(r"url\(|@import", html)
    assert "Content-Security-Policy\" content=\"default-src 'none'; " in html
    digests = [hashlib.sha256(script.encode()).digest() for script in re.findall(r"<script>(.*?)</script>", html, re.S)]
    assert re.findall(r"sha256-([^']*?)(?:&#39;|')", html) == [b64encode(digest).decode() for digest in digests]
    assert 'id="pairs"' not in html  # which needs the labels


def test_a_title_cannot_close_the_script_of_the_charts(everything: Document, tmp_path: Path) -> None:
    html, _ = write(everything, tmp_path)
    everything["charts"]["rows"] = ["</script>"]
    assert page.render_page(everything).count("</script>") == html.count("</script>")


def test_numbers_that_mean_nothing_come_after_a_warning(tmp_path: Path) -> None:
    asked = many(1).with_settings({"dataset": "synthetic"})
    html, _ = write(
        document(asked, asked.runs(), make_records(make_result(run, 90.0) for run in asked.runs())), tmp_path
    )
    body = html[html.index("<body>") :]
    assert "The images are generated" in body[: body.index("<h1>")]
    assert "What was found" not in html


def test_every_initialisation_of_the_table_is_explained_once(tmp_path: Path) -> None:
    asked = many(1).with_settings({"init": [*INITS], "model": "fitresnet4"})  # which Fixup needs
    html, _ = write(document(asked, asked.runs(), make_records([])), tmp_path)
    (fold,) = re.findall(r"<summary>What n/c and the names.*?</details>", html, re.S)
    assert [name.strip() for name in re.findall(r"<strong>(.*?)</strong>", fold)] == [
        "n/c",
        *map(display_name, INITS),
    ]


def test_one_run_per_cell_is_said_once(small: Experiment, tmp_path: Path) -> None:
    runs = small.runs({"seed": 0})
    results = [make_result(run, accuracy) for run, accuracy in zip(runs, (93.0, 10.0, None), strict=True)]
    html, _ = write(document(small, runs, make_records(results)), tmp_path)
    assert "one run per cell (n = 1)" in html
    assert "(n=1)" not in html
    assert "(1/1)" not in html
    # of three runs each, one has finished
    html, _ = write(document(small, small.runs(), make_records(results)), tmp_path)
    assert "one run per cell so far (n = 1)" in html
    assert "(n=1)" not in html
    assert html.count('<span class="counts">… 1/3</span>') == 3


def test_the_legend_explains_consistent_only_where_a_number_is(small: Experiment, tmp_path: Path) -> None:
    explained = []
    for width in (1.0, 0.5):
        asked = small.with_settings({"width": width})
        results = [make_result(run, 92 + 0.2 * run.seed) for run in asked.runs()]
        html, _ = write(document(asked, asked.runs(), make_records(results)), tmp_path)
        explained.append("<li>consistent: the published number lies" in html)
    assert explained == [True, False]


def test_one_run_has_finished(small: Experiment, tmp_path: Path) -> None:
    run, *_ = small.runs()
    html, _ = write(document(small, (run,), make_records([make_result(run, 93.0)])), tmp_path)
    assert "<p>run has finished</p>" in html


def test_what_is_not_judged_says_why_in_its_tile(small: Experiment, tmp_path: Path) -> None:
    asked = small.with_settings({"width": 0.5, "seed": 0})
    html, _ = write(
        document(asked, asked.runs(), make_records(make_result(run, 50.0) for run in asked.runs())), tmp_path
    )
    published, claims = html.split('<div class="tile">')[2:4]
    assert "not comparable</span> <b>3</b>" in published
    assert "width 0.5 (paper: 1)" in published
    assert "undecided</span> <b>7</b>" in claims
    assert "Undecided: not in this experiment; no rival in this experiment; fewer than 3 runs in every cell." in claims
    assert html.count("Not comparable with the paper") == 1


def test_runs_that_were_logged_online_are_links(everything: Document, tmp_path: Path) -> None:
    for run, url in zip(everything["runs"], ("https://example.org/?a=<b>", "javascript:alert(1)"), strict=False):
        run["url"] = url
    html, _ = write(everything, tmp_path)
    link, other = (f"<code>{run['run_id']}</code>" for run in everything["runs"][:2])
    assert f'<th scope="row"><a href="https://example.org/?a=&lt;b&gt;">{link}</a></th>' in html
    assert f'<th scope="row">{other}</th>' in html
    assert "javascript:" not in html


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
    found, bad = page.correct_answers(doc, tmp_path, lambda *_: LABELS)
    assert [path.parent for path in bad] == [folders[2]]
    assert found[0][0][0].tolist() == [False] * 2500 + [True] * 7500
    assert [(column, row, *seeds) for column, rows in found.items() for row, seeds in rows.items()] == [(0, 0, 0)]
    found, bad = page.correct_answers(doc, tmp_path, lambda *_: np.roll(LABELS, 1))  # other labels
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


def test_paths_in_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")

    def command(file: str, data_dir: str = "data", out: Path = tmp_path) -> str:
        return page.matrix_command(Path(file), Selection(data_dir=Path(data_dir)), out)

    assert command(f"{tmp_path}/experiments/a.yaml", out=Path("results/a")) == (
        "replicate matrix experiments/a.yaml --out results/local/a-again"
    )
    # the page may be published, so the user's name is not in it
    assert "matrix ~/a.yaml --data-dir '~/my data' --out" in command("/home/me/a.yaml", "~/my data")
    assert "matrix /mnt/a.yaml --data-dir ~/'my data' --out" in command("/mnt/a.yaml", "/home/me/my data")


def test_the_commands_on_the_page_run_when_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    data_dir = tmp_path / "it's data"
    file = tmp_path / "my experiments" / "small.yaml"
    file.parent.mkdir()
    file.write_text(re.sub(r" +(reference|claims): .*", "", (ROOT / "experiments" / "smoke.yaml").read_text()))
    settings = ("width=0.25,0.5", "lr=1e-3", "milestones=[]")
    selection = Selection(set=settings, only=("init=lsuv,xavier", "width=0.25"), data_dir=data_dir)
    selected = Selected.load(file, selection)
    doc = document(selected.experiment, selected.runs, make_records(()))
    page.write_report(
        doc,
        tmp_path,
        tmp_path / "report",
        partial(page.matrix_command, file, selection, tmp_path),
        lambda *_: None,
    )
    html = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    commands = [unescape(code) for code in re.findall(r'<div class="command"><code>(.*?)</code>', html)]

    def paste(command: str) -> Selection:
        shell = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
        program, *words = shell.stdout.splitlines()
        name, arguments = parse(words)
        assert (program, name, arguments["file"].resolve()) == ("replicate", "matrix", file)
        assert (arguments["selection"].data_dir.resolve(), arguments["selection"].out.parent) == (data_dir, OUT)
        found: Selection = arguments["selection"]
        return found

    every, *cells = [Selected.load(file, paste(command)).runs for command in commands]
    assert every == selected.runs
    pairs = [(cell["row"], cell["column"]) for cell in doc["cells"]]
    assert len(pairs) == 10
    assert cells == [tuple(run for run in every if (run.init, run.activation) == pair) for pair in pairs]


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

    selection = Selection(set=settings, only=only)
    asked = runs(page.matrix_command(file, selection, OUT))
    wanted = {run for run in asked if all(getattr(run, key) == cell[key] for key in cell)}
    assert wanted
    assert runs(page.matrix_command(file, selection, OUT, cell)) == wanted


def test_the_batch_size_may_be_an_axis(tmp_path: Path) -> None:
    grid = {"batch_size": (4, 8), "init": ("lsuv",)}
    experiment = Experiment(name="a", grid=grid, run={"activation": "relu"}, table=TableSpec("batch_size", "init"))
    doc = document(experiment, experiment.runs(), make_records([make_result(run, 50.0) for run in experiment.runs()]))
    page.write_report(doc, tmp_path, tmp_path / "report", lambda fixed=None: "", lambda *_: None)
    assert "of a training batch" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
