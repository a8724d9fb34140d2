import json
import math
from dataclasses import replace

from made_up_records import ROOT, make_records, make_result

from replicate.experiment import Experiment
from replicate.report.document import axis_values, document, strict_json


def test_numbers_that_are_not_finite_are_null(small: Experiment) -> None:
    result = make_result(small.runs()[0], 90.0, environment={"a": [math.nan, 1.5, (math.inf,)]})
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


def test_axes_keep_the_order_of_the_grid(small: Experiment) -> None:
    turned = replace(small, grid={**small.grid, "init": ("orthonormal_msra", "lsuv")})
    assert axis_values(turned, turned.runs(), "init") == ("orthonormal_msra", "lsuv")
    assert axis_values(turned, turned.runs({"activation": "relu"}), "activation") == ("relu",)
    assert axis_values(turned, turned.runs(), "width") == (1.0,)
