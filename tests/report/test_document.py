import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import ROOT, make_records, make_result
from workers import put

from replicate.experiment import Experiment
from replicate.report.document import axis_values, document, number_and_counts, strict_json
from replicate.report.findings import description
from replicate.store.run_folder import RunFolder, collect


def test_numbers_that_are_not_finite_are_null(small: Experiment) -> None:
    result = make_result(small.runs()[0], 90.0)
    object.__setattr__(result, "environment", {"a": [math.nan, 1.5, (math.inf,)]})  # which no record may hold
    doc = document(small, small.runs(), make_records([result]))
    assert json.loads(strict_json(doc)) == doc
    assert doc["runs"][0]["environment"] == {"a": [None, 1.5, [None]]}


def test_claims_are_judged_on_whole_sets_of_cells(small: Experiment) -> None:
    claims = document(small, small.runs({"init": "lsuv"}), make_records([]))["claims"]
    reasons = {claim["id"]: claim["reason"] for claim in claims}
    assert reasons["lsuv-best-relu"] == "not all of its cells are in this table"
    assert reasons["lsuv-best-maxout"] == "no rival in this experiment"


def test_the_released_recipes_are_footnotes() -> None:
    experiment = Experiment.load(ROOT / "experiments" / "table3-as-released.yaml")
    runs = experiment.runs({"seed": 0})
    cells = document(experiment, runs, make_records(make_result(run, 90.0) for run in runs))["cells"]
    notes = {cell["name"]: cell["notes"] for cell in cells if cell["notes"]}
    assert list(notes) == ["Xavier × maxout", "MSRA × maxout"]
    assert notes["Xavier × maxout"] == ["Trained with momentum 0.5, unlike the other cells."]


def test_finished_runs_with_more_seeds_are_in_the_table_and_counted(small: Experiment, tmp_path: Path) -> None:
    more = replace(small, table=replace(small.table, more_seeds=(2, 3, 4)))
    asked = small.runs({"activation": "relu"})
    made = [make_result(run, 92.0 + run.seed / 10) for run in (*asked, replace(asked[0], seed=3))]
    made.append(make_result(replace(asked[0], seed=4), None, status="error"))
    made.append(make_result(replace(asked[0], seed=9), 92.0))
    for result in made:
        put(result, RunFolder.of(tmp_path, result.run).path)
    records = collect(tmp_path, asked, more.more_runs(asked))
    assert records.others == 1
    doc = document(more, asked, records)
    cells = {cell["name"]: cell for cell in doc["cells"]}
    assert cells["LSUV × ReLU"]["seeds"] == [0, 1, 2, 3]
    assert cells["OrthoNorm-MSRA scaled × ReLU"]["seeds"] == [0, 1, 2]
    assert number_and_counts(cells["LSUV × ReLU"]) == "92.2 ± 0.1 (n=4, 1 error)"
    assert "(2 cells, 3 to 5 seeds)" in description(doc)[1]
    assert (doc["missing"], doc["more_runs"]) == ([], 2)


def test_an_undecided_claim_has_its_power(small: Experiment) -> None:
    claims = document(small, small.runs(), make_records(make_result(run, 92 + run.seed / 5) for run in small.runs()))
    found = {claim["id"]: claim for claim in claims["claims"]}
    undecided = found["lsuv-best-relu"]
    assert undecided["not_significant"] == ["LSUV × ReLU over OrthoNorm-MSRA scaled × ReLU"]
    assert 5 < undecided["power"] < 50  # 0.18 points apart in the paper, deviation 0.2, three runs each
    assert undecided["shown"]["power"] == f"{undecided['power']:.0f} %"
    assert found["xavier-best-tanh"]["power"] is None  # not in this table
    generated = small.with_settings({"dataset": "synthetic"})
    results = [make_result(run, 92 + run.seed / 5) for run in generated.runs()]
    assert all(
        claim["power"] is None for claim in document(generated, generated.runs(), make_records(results))["claims"]
    )
    failed = document(small, small.runs(), make_records(make_result(run, 10.0) for run in small.runs()))
    powers = {claim["id"]: claim["power"] for claim in failed["claims"]}
    assert powers["lsuv-best-relu"] is None  # nobody knows the spread


def test_cells_that_scatter_unlike_are_judged_each_by_its_own_spread(small: Experiment) -> None:
    steps = {("lsuv", "maxout"): 5.0, ("lsuv", "relu"): 0.01, ("orthonormal_msra", "relu"): 0.01}
    made = [make_result(run, 90.0 + run.seed * steps[run.init, run.activation]) for run in small.runs()]
    doc = document(small, small.runs(), make_records(made))
    assert doc["spreads"]["shown"].startswith("The spreads of the cells differ (Bartlett's test, p = ")
    halves = [cell["verdict"]["half_width"] for cell in doc["cells"] if cell["expected"]]
    half = 4.302653 * 2 / math.sqrt(3)  # t(2) · √(1 + 1/3) for a deviation of 1
    assert halves == pytest.approx([5 * half, 0.01 * half, 0.01 * half])


def test_axes_keep_the_order_of_the_grid(small: Experiment) -> None:
    turned = replace(small, grid={**small.grid, "init": ("orthonormal_msra", "lsuv")})
    assert axis_values(turned, turned.runs(), "init") == ("orthonormal_msra", "lsuv")
    assert axis_values(turned, turned.runs({"activation": "relu"}), "activation") == ("relu",)
    assert axis_values(turned, turned.runs(), "width") == (1.0,)
