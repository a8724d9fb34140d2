from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_up_records import LAYERS, fill
from workers import put

from replicate.experiment import Experiment, TableSpec
from replicate.report.charts import charts
from replicate.report.frames import read_frames
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import collect


def gathered(asked: Experiment, out: Path) -> dict[str, Any]:
    table = assemble(asked, asked.runs(), collect(out, asked.runs()))
    return charts(table, read_frames(table, out))


def write(out: Path, results: Sequence[Result], accuracies: Sequence[str]) -> None:
    """Write records, and curves with the test accuracy after 100 and after 200 iterations."""
    results = sorted(results, key=lambda result: (result.run.init, result.run.activation, result.run.seed))
    for result, numbers in zip(results, accuracies, strict=True):
        folder = put(result, out / "runs" / result.run.run_id).parent
        first, second = numbers.split(",")
        (folder / "curve.csv").write_text(f"iteration,epoch,test_accuracy\n100,1,{first}\n200,2,{second}\n")


def test_curves_of_means_and_of_single_runs(tmp_path: Path, small: Experiment, small_results: list[Result]) -> None:
    write(tmp_path, small_results, ("20,60", "30,80", "40,", "1,2", "3,4", "10,10.00001", "nan,nan"))
    drawn = gathered(small, tmp_path)
    assert list(drawn["curves"]) == ["test_accuracy"]  # the files hold nothing else
    chart = drawn["curves"]["test_accuracy"]
    assert chart["x"] == [100, 200]
    mean, other, *runs = chart["lines"]
    spread = {"low": [20, 60], "high": [40, 80]}
    assert mean == {"row": 0, "column": 0, "kind": "mean", "label": "mean", "y": [30, 70], **spread}
    assert (other["kind"], other["column"], other["y"]) == ("mean", 1, [2, 3])  # without the run at chance
    assert sorted((run["column"], run["label"], run["kind"], run["y"]) for run in runs) == [
        (0, "seed 0", "run", [20, 60]),
        (0, "seed 1", "run", [30, 80]),
        (0, "seed 2", "run", [40, None]),
        (1, "seed 0", "run", [1, 2]),
        (1, "seed 1", "run", [3, 4]),
        (1, "seed 2, n/c", "failed", [10, 10]),
    ]
    assert drawn["rows"] == ["LSUV", "OrthoNorm-MSRA scaled"]
    assert drawn["chance"] == 10
    assert drawn["milestones"] == [40_000, 60_000, 80_000]
    assert drawn["layers"] == []


def test_an_axis_of_numbers_and_none(tmp_path: Path) -> None:
    grid = {"init": ("lsuv",), "clip_norm": (None, 50.0)}
    asked = Experiment("clipped", grid, {"activation": "relu"}, table=TableSpec(columns="clip_norm"))
    fill(tmp_path, asked.runs(), points=2)
    drawn = gathered(asked, tmp_path)
    assert drawn["columns"] == ["none", "50"]
    for chart in (*drawn["curves"].values(), *drawn["layers"]):
        assert [line["column"] for line in chart["lines"] if line["kind"] == "mean"] == [0, 1]


def test_layers_at_each_snapshot(tmp_path: Path, small: Experiment) -> None:
    fill(tmp_path, small.runs(), points=2)
    drawn = gathered(small, tmp_path)["layers"]
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
    (chart,) = gathered(small, tmp_path)["layers"]
    assert chart["moment"] == "after initialisation"
    assert len(chart["lines"]) == 3
