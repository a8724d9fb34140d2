from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import layer, make_records, make_result, write_layers
from workers import put

from replicate.experiment import Experiment
from replicate.report.charts import init_report, outcomes, page_charts, read_charts
from replicate.report.document import Document, document
from replicate.store.result import Result


@pytest.fixture
def relu(tmp_path: Path, small_results: list[Result]) -> list[Result]:
    """The records of LSUV × ReLU: two seeds that converge, and one at chance."""
    results = [result for result in small_results if (result.run.init, result.run.activation) == ("lsuv", "relu")]
    for result in results:
        put(result, tmp_path / "runs" / result.run.run_id)
    return results


def read(out: Path, small: Experiment, results: list[Result]) -> tuple[Document, Document]:
    doc = document(small, small.runs(), make_records(results))
    return doc, read_charts(doc, out)


def test_curves_of_means_and_of_single_runs(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    contents = ("100,1,20\n200,2,60\n", "100,1,40\n200,2,80\n300,3", "100,1,1.000001\nx")
    for result, rows in zip(relu, contents, strict=True):
        (tmp_path / "runs" / result.run.run_id / "curve.csv").write_text("iteration,epoch,test_accuracy\n" + rows)
    doc, charts = read(tmp_path, small, relu)
    chart = charts["curves"]["test_accuracy"]
    assert chart["x"] == [100, 200]  # rows that were cut off are left out
    mean, first, _, failed = chart["lines"]
    assert (mean["y"], mean["low"], mean["high"]) == ([30, 70], [20, 60], [40, 80])
    assert (first["kind"], first["y"], failed["kind"], failed["y"]) == ("run", [20, 60], "failed", [1, None])
    assert list(page_charts(doc, charts)["curves"]) == ["test_accuracy"]  # the files hold no other metric
    crashed = [replace(result, status="error", test_accuracy=None) for result in relu]
    assert read(tmp_path, small, crashed)[1]["curves"]["test_accuracy"]["lines"] == []


def test_reported_variances_in_forward_order(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    first, second = (
        [{"layer": layer, "piece": 0, "variance": variance} for layer, variance in zip("zyx", variances, strict=True)]
        for variances in ((None, 0.01, 0.0), (4.0, 1.0, None))
    )
    results = [replace(relu[0], init=first), replace(relu[1], init=second)]
    chart = read(tmp_path, small, results)[1]["layers"]["init_variance"][0]
    assert chart["x"] == ["z", "y"]  # zero and unknown values cannot be shown on a log axis
    assert chart["lines"][0]["y"] == [4, 0.1]


def test_nets_of_different_depth_are_in_the_order_of_the_deepest(
    tmp_path: Path, small: Experiment, relu: list[Result]
) -> None:
    shallow, deep = ([{"layer": name, "piece": 0, "variance": 1.0} for name in names] for names in ("az", "abz"))
    results = [replace(relu[0], init=shallow), replace(relu[1], init=deep)]
    charts = read(tmp_path, small, results)[1]["layers"]
    assert charts["init_variance"][0]["x"] == ["a", "b", "z"]


def test_layers_and_spectra_of_each_snapshot(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    folders = [tmp_path / "runs" / result.run.run_id for result in relu]
    first = [layer(variance=1, singular=(8, 2, 0)), layer(piece=1, variance=4), layer("fc1", variance=9)]
    write_layers(folders[0], relu[0], {0: first, 7: [layer(singular=(7, 7))], 9: [layer(singular=(2, 1, 0.5))]})
    second = [layer(variance=2, singular=(32, 8, 0)), layer(piece=1, variance=0)]
    write_layers(folders[1], relu[1], {0: second, 9: [layer(variance=None, singular=(8, 4, 2))]})
    broken = write_layers(folders[2], relu[2], {})
    broken.write_text("{")
    doc, charts = read(tmp_path, small, relu)
    assert list(charts["bad"]) == [broken]
    assert list(charts["layers"]["variance"]) == [0, 7, 9]
    chart = charts["layers"]["variance"][0]
    assert chart["x"] == ["conv1", "fc1"]
    (line,) = chart["lines"]
    # the third root of 1 · 4 · 2
    assert (line["y"], line["low"], line["high"]) == ([2, 9], [1, 9], [4, 9])
    before, after = charts["spectra"]["conv1"]  # at the first and the last snapshot
    assert (before["x"], [line["y"] for line in before["lines"]]) == ([0, 0.5], [[16, 4]])
    assert (after["x"], [line["y"] for line in after["lines"]]) == ([0, 0.5, 1], [[4, 2, 1]])
    moments = [chart["moment"] for chart in page_charts(doc, charts)["layers"]]
    assert moments == ["after initialisation", "after 7 iterations", "after 9 iterations"] * 2


def test_reports_of_an_initialisation_are_summarised_by_layer() -> None:
    rescaled = {"variance_before": 0.5, "tries": 3, "converged": True}
    reports = [{"layer": "conv1", "piece": piece, "variance": v, **rescaled} for piece, v in ((0, 1.0), (1, 4.0))]
    conv, fc = init_report([[*reports, {"layer": "fc1", "piece": 0, "variance": None}], reports])
    assert conv == {
        **{"layer": "conv1", "pieces": 2, "count": 4, "range": [1.0, 4.0], "tries": [3, 3], "within": 4},
        **{"before": pytest.approx(0.5), "variance": pytest.approx(2)},
    }
    assert [fc[key] for key in ("before", "variance", "range", "tries", "within")] == [None] * 5


def test_outcomes_of_runs_that_did_not_converge(small: Experiment) -> None:
    runs = sorted(small.runs(), key=lambda run: (run.init, run.activation))
    ends = [(90.0, 9)] * 3 + [(10.0, 9), (None, 57), (None, 1030)] + [(None, 2), (90.0, 9)]  # the last one is missing
    results = [make_result(run, end, iteration=at) for run, (end, at) in zip(runs, ends, strict=False)]
    assert [list(one.values()) for one in outcomes(document(small, small.runs(), make_records(results)))] == [
        [0, 0, ""],
        [0, 1, "1 of 3 at chance, 2 of 3 diverged at 57 to 1,030"],
        [1, 1, "1 of 2 diverged at 2"],
    ]
    doc = document(small, small.runs(), make_records([make_result(runs[0], 10.0)]))
    assert [one["text"] for one in outcomes(doc)] == ["at chance"]


def test_dead_units_of_a_maxout_layer_count_once(tmp_path: Path, small: Experiment, relu: list[Result]) -> None:
    def entry(name: str, piece: int, dead: float | None) -> dict[str, object]:
        return {**layer(name, piece), "dead": dead}

    before = [entry("conv1", 0, 0.0), entry("fc1", 0, 0.5), entry("fc1", 1, 0.5), entry("fc2", 0, None)]
    after = [entry("conv1", 0, 0.25)]
    write_layers(tmp_path / "runs" / relu[0].run.run_id, relu[0], {0: before, 7: [entry("conv1", 0, 1.0)], 9: after})
    assert read(tmp_path, small, relu[:1])[1]["dead"] == {"relu": ([0.0, 0.5], [0.25])}
