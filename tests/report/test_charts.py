from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_records import LAYERS, fill
from workers import put

from replicate.experiment import Experiment
from replicate.report.charts import charts
from replicate.report.layers import measured_layers
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect


def table(asked: Experiment, out: Path) -> Table:
    return assemble(asked, asked.runs(), collect(out, asked.runs()))


def test_curves_of_means_and_of_single_runs(
    tmp_path: Path, small: Experiment, small_results: list[Result], make_records: Callable[..., Records]
) -> None:
    values = {93.8: "20,60", 94.0: "30,80", 94.2: "40,,"}
    for result in small_results[:3] + small_results[-1:]:
        put(result, tmp_path / "runs" / result.run.run_id)
    for result in small_results:
        if result.test_accuracy in values:
            first, second, *_ = values[result.test_accuracy].split(",")
            rows = f"100,1,{first}\n200,2,{second}\n"
            (tmp_path / "runs" / result.run.run_id).mkdir(parents=True, exist_ok=True)
            (tmp_path / "runs" / result.run.run_id / "curve.csv").write_text("iteration,epoch,test_accuracy\n" + rows)
    built = assemble(small, small.runs(), make_records(small_results))
    drawn = charts(built, tmp_path, measured_layers(built.results, tmp_path))
    assert list(drawn["curves"]) == ["test_accuracy"]  # the files hold nothing else
    chart = drawn["curves"]["test_accuracy"]
    assert chart["x"] == [100, 200]
    mean, *runs = chart["lines"]
    assert mean == {
        "row": 0,
        "column": 0,
        "kind": "mean",
        "label": "mean",
        "y": [30, 70],
        "low": [20, 60],
        "high": [40, 80],
    }
    assert [(run["kind"], run["label"], run["y"]) for run in runs] == [
        ("run", "seed 0", [20, 60]),
        ("run", "seed 1", [30, 80]),
        ("run", "seed 2", [40, None]),
    ]
    assert drawn["rows"] == ["LSUV", "OrthoNorm-MSRA scaled"]
    assert drawn["chance"] == 10
    assert drawn["milestones"] == [40_000, 60_000, 80_000]
    assert drawn["layers"] == []


def test_layers_at_each_moment(tmp_path: Path, small: Experiment) -> None:
    fill(tmp_path, small.runs(), points=2)
    built = table(small, tmp_path)
    drawn = charts(built, tmp_path, measured_layers(built.results, tmp_path))["layers"]
    assert [(chart["label"], chart["moment"]) for chart in drawn] == [
        (label, moment)
        for label in ("variance of the pre-activation", "L2 norm of the gradient by the weight")
        for moment in ("after initialisation", "after 1,000 iterations", "after 90,000 iterations")
    ]
    assert drawn[0]["x"] == list(LAYERS)
    line = drawn[0]["lines"][0]
    assert len(line["y"]) == len(LAYERS)
    assert line["y"][0] == pytest.approx(1, abs=0.3)  # made up as 1, times noise
    assert line["low"][0] <= line["y"][0] <= line["high"][0]


def test_without_layers_the_reports_of_the_initialisation_are_shown(tmp_path: Path, small: Experiment) -> None:
    fill(tmp_path, small.runs(), points=2, layers=False)
    built = table(small, tmp_path)
    (chart,) = charts(built, tmp_path, measured_layers(built.results, tmp_path))["layers"]
    assert chart["moment"] == "after initialisation"
    assert len(chart["lines"]) == 3
