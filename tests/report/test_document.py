import json
import math
from dataclasses import replace

import pytest
from made_up_records import make_records, make_result

from replicate.experiment import Experiment
from replicate.report.document import Document, document, provenance, strict_json, summary
from replicate.report.table import Table, assemble
from replicate.run import Run
from replicate.store.result import Result


def test_numbers_by_hand(doc: Document) -> None:
    first, relu, dash, failed = doc["cells"]
    # t of 2 degrees of freedom 4.303, standard deviation 0.2, three runs
    assert first["interval"] == pytest.approx([94 - 4.3027 * 0.2 / 3**0.5, 94 + 4.3027 * 0.2 / 3**0.5], abs=1e-4)
    # variances 0.04 with 2 and 0.02 with 1 degrees of freedom
    assert doc["pooled"] == {"sd": pytest.approx((0.1 / 3) ** 0.5), "df": 3}
    assert first["verdict"]["half_width"] == pytest.approx(3.182446 * (0.1 / 3) ** 0.5 * (4 / 3) ** 0.5)
    assert first["run_ids"] == [run["run_id"] for run in doc["runs"] if run["run_id"].startswith("lsuv-maxout")]
    assert (relu["converged"], relu["not_converged"], relu["seeds"]) == (2, 1, [0, 1])
    assert [dash[key] for key in ("expected", "mean", "nc", "settings")] == [0, None, None, None]
    assert (failed["nc"], failed["mean"], failed["diverged"], failed["missing"]) == (True, None, 1, 2)


def test_numbers_that_are_not_finite_are_null_and_folders_are_hidden(everything: Table) -> None:
    results = (replace(everything.results[0], environment={"a": [math.nan, 1.5, (math.inf,)]}), *everything.results[1:])
    doc = document(replace(everything, results=results))
    assert json.loads(strict_json(doc)) == doc
    assert doc["runs"][0]["environment"] == {"a": [None, 1.5, [None]]}
    assert "/home/me" not in strict_json(doc)


def test_caveats_of_few_seeds_errors_and_changed_code(small: Experiment, small_results: list[Result]) -> None:
    assert summary(assemble(small, small.runs(), make_records([])))["caveats"] == ["No run has finished yet."]
    part = small.with_settings({"seed": [0, 1]})
    found = [result for result in small_results if result.run.seed < 2]
    crashed = [replace(found[0], status="error", error="boom", dirty=True), *found[1:]]
    assert summary(assemble(part, part.runs(), make_records(crashed)))["caveats"] == [
        "2 of 6 runs have not finished, so the numbers may still change.",
        "No cell has more than 2 runs; published numbers are judged only with at least 3.",
        "1 run ended in an error; see “What is missing”.",
        "The runs were made by 2 different versions of the code.",
        "Some runs were made by code that differs from the commit they name.",
    ]


def test_caveats_of_another_protocol(small: Experiment, small_results: list[Result]) -> None:
    short = small.with_settings({"iterations": 90, "milestones": [40]})
    results = [replace(result, run=run) for result, run in zip(small_results, short.runs(), strict=False)]
    caveats = summary(assemble(short, short.runs(), make_records(results)))["caveats"]
    assert any("Not comparable with the paper: iterations 90 (paper: 90,000)" in caveat for caveat in caveats)


def test_provenance() -> None:
    gpu, cpu = {"device": "cuda", "threads": 4}, {"device": "cpu", "threads": 2}
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    found = provenance([
        make_result(Run("lsuv", "relu", 0), 90.0, seconds=3600.0, options=gpu, device="A", finished=late),
        make_result(Run("lsuv", "relu", 1), 90.0, seconds=1800.0, options={"device": "cuda"}, device="A", dirty=True),
        make_result(Run("lsuv", "relu", 2), None, seconds=1800.0, options=cpu, device="B", versions={"torch": "2.12"}),
    ])  # fmt: skip
    assert found["devices"] == [
        {"name": "A", "kind": "GPU", "runs": 2, "hours": 1.5},
        {"name": "B", "kind": "CPU", "runs": 1, "hours": 1.0},
    ]
    assert found["hours"] == {"GPU": 1.5, "CPU": 1.0}
    assert [(one["dirty"], one["runs"]) for one in found["code"]] == [(False, 2), (True, 1)]
    assert found["versions"] == {"torch": {"2.11": 2, "2.12": 1}}
    assert (found["first_finished"], found["last_finished"]) == (early, late)
