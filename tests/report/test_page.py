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
from made_up_records import LABELS, fill

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.page import ASSETS, embedded, write_report
from replicate.report.reproduce import Source
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect

SOURCE = Source(Path("experiments/small.yaml"))
HOSTILE = "</script><script>alert(1)</script>&'\""


def written(small: Experiment, out: Path) -> str:
    page, _ = write_report(small, small.runs(), collect(out, small.runs()), out, SOURCE)
    return page.read_text(encoding="utf-8")


@pytest.fixture
def out(tmp_path: Path, small: Experiment) -> Path:
    fill(tmp_path, small.runs(), points=3)
    return tmp_path


def test_the_same_records_give_the_same_bytes(small: Experiment, out: Path) -> None:
    assert written(small, out) == written(small, out)


def test_it_needs_nothing_from_outside(small: Experiment, out: Path) -> None:
    text = written(small, out)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    tags = re.findall(r"<(?:script|link|img|iframe|object|embed|source|use)\b[^>]*>", text.replace(data[0], ""))
    assert tags == ['<link rel="icon" href="data:,">', "<script>", "<script>"]
    assert not re.search(r"url\(|@import", text)


def test_its_policy_names_its_two_scripts_and_no_other(small: Experiment, out: Path) -> None:
    text = written(small, out)
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


def test_hostile_records_stay_text(small: Experiment, out: Path) -> None:
    for path in out.glob("runs/*/result.json"):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "data_label": HOSTILE, "commit": HOSTILE, "device": HOSTILE}))
    (out / "runs" / small.runs()[0].run_id / "layers.json").write_text(
        json.dumps({"schema": 1, "run_id": HOSTILE, "fingerprint": "f", "moments": []})
    )
    text = written(small, out)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "layers.json</code>: run_id is" in text


def test_report_json_holds_the_table_and_the_charts(small: Experiment, out: Path) -> None:
    _, path = write_report(small, small.runs(), collect(out, small.runs()), out, SOURCE)
    read = json.loads(path.read_text())
    assert (path.name, read["experiment"], len(read["runs"])) == ("report.json", "small", 9)
    assert set(read["charts"]) == {"rows", "columns", "milestones", "chance", "curves", "layers"}
    assert read["mcnemar"] == []


def test_pairs_are_shown_where_the_labels_are_at_hand(small: Experiment, out: Path) -> None:
    assert 'id="pairs"' not in written(small, out)
    records = collect(out, small.runs())
    page, path = write_report(small, small.runs(), records, out, SOURCE, lambda dataset: LABELS)
    pairs = json.loads(path.read_text())["mcnemar"]
    (pair,) = pairs
    assert (pair["column"], pair["first"], pair["second"]) == ("relu", "lsuv", "orthonormal_msra")
    assert pair["seeds"] == [0, 1, 2]
    assert page.read_text().count("of 3 seeds</td>") == 1
    accuracies = [
        next(result.test_accuracy for result in records.results.values() if result.run == Run(init, "relu", 0))
        for init in ("lsuv", "orthonormal_msra")
    ]
    more = pair["only_first"][0] - pair["only_second"][0]
    assert more == pytest.approx(100 * (accuracies[0] - accuracies[1]))  # of 10,000 images


def test_errors_missing_runs_and_commands_are_there(
    small: Experiment, small_results: list[Result], tmp_path: Path, make_records: Callable[..., Records]
) -> None:
    crashed = replace(small_results[0], status="error", test_accuracy=None, error="Traceback\nOSError: no disk")
    records = make_records([crashed, *small_results[1:]], others=3)
    page, _ = write_report(small, small.runs(), records, tmp_path, SOURCE)
    text = html.unescape(page.read_text())
    assert f"<code>{crashed.run.run_id}</code> ended in an error: OSError: no disk" in text
    assert "2 runs have no readable record" in text
    assert "3 other records lie in the output folder and are not of this report." in text
    assert "<code>replicate matrix experiments/small.yaml --only init=lsuv activation=maxout</code>" in text


def test_two_data_sets_are_refused_and_nothing_is_written(
    small: Experiment, small_results: list[Result], tmp_path: Path, make_records: Callable[..., Records]
) -> None:
    mixed = make_records([replace(small_results[0], fingerprint="ab" * 32), *small_results[1:]])
    with pytest.raises(UsageError, match="one data set"):
        write_report(small, small.runs(), mixed, tmp_path, SOURCE)
    assert not list(tmp_path.iterdir())


def test_the_charts_are_drawn_by_the_published_library() -> None:
    script = ASSETS.joinpath("uplot/uPlot.iife.min.js").read_bytes()
    assert b"uPlot (v1.6.32)" in script[:80]
    assert hashlib.sha256(script).hexdigest() == "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f"
    assert "MIT License" in ASSETS.joinpath("uplot/LICENSE").read_text()
