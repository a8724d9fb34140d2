from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_records import layer, make_records, write_layers
from workers import put

from replicate.experiment import Experiment
from replicate.report.charts import Charts, init_report, page_charts, read_charts
from replicate.report.table import Table, assemble
from replicate.store.result import Result


@pytest.fixture
def relu(tmp_path: Path, small_results: list[Result]) -> list[Result]:
    """The records of LSUV × ReLU: two seeds that converge, and one at chance."""
    results = [result for result in small_results if (result.run.init, result.run.activation) == ("lsuv", "relu")]
    for result in results:
        put(result, tmp_path / "runs" / result.run.run_id)
    return results


def read(out: Path, small: Experiment, results: list[Result]) -> tuple[Table, Charts]:
    table = assemble(small, small.runs(), make_records(results))
    return table, read_charts(table, out)


def test_curves_of_means_and_of_single_runs(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    contents = ("100,1,20\n200,2,60\n", "100,1,40\n200,2,80\n300,3", "100,1,1.000001\nx")
    for result, rows in zip(relu, contents, strict=True):
        (tmp_path / "runs" / result.run.run_id / "curve.csv").write_text("iteration,epoch,test_accuracy\n" + rows)
    table, charts = read(tmp_path, small, relu)
    chart = charts.curves["test_accuracy"]
    place = {"row": 0, "column": 1}
    assert chart["x"] == [100, 200]  # rows that were cut off are left out
    assert chart["lines"] == [
        {**place, "kind": "mean", "label": "mean", "y": [30, 70], "low": [20, 60], "high": [40, 80]},
        {**place, "kind": "run", "label": "seed 0", "y": [20, 60]},
        {**place, "kind": "run", "label": "seed 1", "y": [40, 80]},
        {**place, "kind": "failed", "label": "seed 2, n/c", "y": [1, None]},
    ]
    assert list(page_charts(table, charts)["curves"]) == ["test_accuracy"]  # the files hold no other metric
    crashed = [replace(result, status="error", test_accuracy=None) for result in relu]
    assert read(tmp_path, small, crashed)[1].curves["test_accuracy"]["lines"] == []


def test_variances_are_averaged_geometrically_in_forward_order(
    tmp_path: Path, small: Experiment, relu: list[Result]
) -> None:
    # names out of alphabetical order: the order of the list counts
    names = [("stem", 0), ("stem", 1), ("classifier", 0), ("body", 0)]
    results = []
    for result, values in zip(relu, ((1.0, 4.0, None, 0.01), (1.0, 4.0, 0.0, 1.0)), strict=False):
        init = [{"layer": one[0], "piece": one[1], "variance": v} for one, v in zip(names, values, strict=True)]
        results.append(replace(result, init=init))
    table, charts = read(tmp_path, small, results)
    chart = charts.init_variance[0]
    assert chart["x"] == ["stem", "body"]  # zero and unknown values cannot be shown on a log axis
    (line,) = chart["lines"]
    assert (line["y"], line["low"], line["high"]) == ([2, 0.1], [1, 0.01], [4, 1])
    (shown,) = page_charts(table, charts)["layers"]
    assert (shown["moment"], shown["lines"]) == ("after initialisation", [line])


def test_layers_and_spectra_of_each_snapshot(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    folders = [tmp_path / "runs" / result.run.run_id for result in relu]
    first = [layer(variance=1, singular=(8, 2, 0)), layer(piece=1, variance=4), layer("fc1", variance=9)]
    write_layers(folders[0], relu[0], {0: first, 7: [layer(singular=(7, 7))], 9: [layer(singular=(2, 1, 0.5))]})
    second = [layer(variance=2, singular=(32, 8, 0)), layer(piece=1, variance=0)]
    write_layers(folders[1], relu[1], {0: second, 9: [layer(variance=None, singular=(8, 4, 2))]})
    broken = write_layers(folders[2], relu[2], {})
    broken.write_text("{")
    table, charts = read(tmp_path, small, relu)
    assert list(charts.bad) == [broken]
    assert list(charts.layers["variance"]) == [0, 7, 9]
    chart = charts.layers["variance"][0]
    assert chart["x"] == ["conv1", "fc1"]
    (line,) = chart["lines"]
    # the third root of 1 · 4 · 2
    assert (line["y"], line["low"], line["high"]) == ([2, 9], [1, 9], [4, 9])
    before, after = charts.spectra["conv1"]  # at the first and the last snapshot
    assert (before["x"], [line["y"] for line in before["lines"]]) == ([0, 0.5], [[16, 4]])
    assert (after["x"], [line["y"] for line in after["lines"]]) == ([0, 0.5, 1], [[4, 2, 1]])
    moments = [chart["moment"] for chart in page_charts(table, charts)["layers"]]
    assert moments == ["after initialisation", "after 7 iterations", "after 9 iterations"] * 2


def entry(layer: str, piece: int, variance: Any, before: Any = None, tries: Any = None, converged: Any = None) -> Any:
    rescaled = {"variance_before": before, "variance_after": None, "tries": tries, "converged": converged}
    return {"layer": layer, "piece": piece, "variance": variance, **rescaled}


def test_reports_of_an_initialisation_are_summarised_by_layer() -> None:
    fc1 = entry("fc1", 0, 1.0, None, 0, True)
    conv, fc = init_report([
        [entry("conv1", 0, 1.0, 0.5, 1, True), entry("conv1", 1, 4.0, 2.0, 3, False), fc1],
        [entry("conv1", 0, 2.0, 1.0, 2, True), entry("conv1", 1, None, 1.0, 20, False), fc1],
    ])  # fmt: skip
    # variance: the third root of 1 · 4 · 2
    assert conv == {
        **{"layer": "conv1", "pieces": 2, "count": 4, "range": [1.0, 4.0], "tries": [1, 20], "within": 2},
        **{"before": pytest.approx(1), "variance": pytest.approx(2)},
    }
    assert (fc["tries"], fc["within"], fc["before"]) == ([0, 0], 2, None)
    (unscaled,) = init_report([[entry("conv1", 0, None)]])
    assert [unscaled[key] for key in ("variance", "range", "tries", "within")] == [None] * 4
