from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.report.series import layer_variances, learning_curves
from replicate.run import Run
from replicate.store.result import Result

HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
AXES = ("init", "activation")


def write_curve(out: Path, run: Run, *rows: tuple[int, float], tail: str = "") -> None:
    folder = out / "runs" / run.run_id
    folder.mkdir(parents=True)
    lines = [f"{iteration},{iteration / 100},0.01,2.3,10,2.3,{accuracy}\n" for iteration, accuracy in rows]
    (folder / "curve.csv").write_text(HEAD + "".join(lines) + tail)


def test_converged_runs_are_averaged_and_the_others_stand_alone(
    tmp_path: Path, make_result: Callable[..., Result]
) -> None:
    runs = [Run("lsuv", "relu", seed=seed) for seed in range(4)]
    accuracies = (80.0, 90.0, 10.0, None)
    write_curve(tmp_path, runs[0], (100, 20.0), (200, 80.0))
    write_curve(tmp_path, runs[1], (100, 40.0), (200, 90.0))
    write_curve(tmp_path, runs[2], (100, 10.0), (200, 10.0))
    results = [make_result(run, accuracy) for run, accuracy in zip(runs, accuracies, strict=True)]
    curves = learning_curves(results, tmp_path, *AXES)
    mean = curves[curves["line"] == "converged"]
    assert mean["iteration"].to_list() == [100, 200]
    assert mean["epoch"].to_list() == [1.0, 2.0]
    assert mean[["mean", "low", "high"]].to_numpy().tolist() == [[30.0, 20.0, 40.0], [85.0, 80.0, 90.0]]
    assert curves.loc[curves["line"] == runs[2].run_id, "mean"].to_list() == [10.0, 10.0]
    assert set(curves["line"]) == {"converged", runs[2].run_id}  # the diverged run left no curve
    assert set(curves["row"]) == {"lsuv"}


def test_a_run_that_crashed_is_left_out(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    run = Run("lsuv", "relu")
    write_curve(tmp_path, run, (100, 20.0))
    assert learning_curves([make_result(run, None, "error")], tmp_path, *AXES).empty


def test_variances_are_averaged_over_pieces_and_seeds_layer_by_layer(make_result: Callable[..., Result]) -> None:
    # names out of alphabetical order: the order of the list counts
    first = [
        {"layer": "stem", "piece": 0, "variance": 1.0, "tries": 2},
        {"layer": "stem", "piece": 1, "variance": 4.0},
        {"layer": "classifier", "piece": 0, "variance": None},
        {"layer": "body", "piece": 0, "variance": 0.01},
    ]
    second = [
        {"layer": "stem", "piece": 0, "variance": 1.0},
        {"layer": "stem", "piece": 1, "variance": 4.0},
        {"layer": "classifier", "piece": 0, "variance": 0.0},
        {"layer": "body", "piece": 0, "variance": 1.0},
    ]
    results = [make_result(Run("lsuv", "relu", seed=i), 90.0, init=init) for i, init in enumerate((first, second))]
    series = layer_variances(results, *AXES)
    assert series["layer"].to_list() == ["stem", "body"]
    assert series["position"].to_list() == [0, 2]
    assert series["mean"].to_list() == pytest.approx([2.0, 0.1])
    assert series["low"].to_list() == pytest.approx([1.0, 0.01])
    assert series["high"].to_list() == pytest.approx([4.0, 1.0])
    assert series.attrs["left_out"] == 2


def test_no_report_of_any_variance(make_result: Callable[..., Result]) -> None:
    unknown = [{"layer": "conv1", "piece": 0, "variance": None}]
    series = layer_variances([make_result(Run("lsuv", "relu"), 90.0, init=unknown)], *AXES)
    assert series.empty
    assert layer_variances([make_result(Run("lsuv", "relu"), 90.0)], *AXES).empty
