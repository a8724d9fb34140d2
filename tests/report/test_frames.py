import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workers import put

from replicate.experiment import Experiment
from replicate.report.frames import Frames, averaged, read_frames
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import collect

ACCURACIES = (80.0, 90.0, 10.0)
Read = Callable[[Sequence[Result]], Frames]


def layer(name: str = "conv1", piece: int = 0, variance: Any = 1.0, gradient: Any = 0.5, singular: Any = (2, 1)) -> Any:
    return {
        **{"name": name, "piece": piece, "variance": variance, "gradient_norm": gradient},
        "singular_values": list(singular),
    }


def write(out: Path, result: Result, *snapshots: tuple[int, list[Any]]) -> Path:
    """Write a `layers.json`."""
    moments = [{"iteration": iteration, "layers": layers} for iteration, layers in snapshots]
    path = out / "runs" / result.run.run_id / "layers.json"
    path.write_text(
        json.dumps({"schema": 1, "run_id": result.run.run_id, "fingerprint": result.fingerprint, "moments": moments})
    )
    return path


@pytest.fixture
def read(tmp_path: Path, small: Experiment) -> Read:
    def frames(results: Sequence[Result]) -> Frames:
        for result in results:
            put(result, tmp_path / "runs" / result.run.run_id)
        return read_frames(assemble(small, small.runs(), collect(tmp_path, small.runs())), tmp_path)

    return frames


@pytest.fixture
def relu(tmp_path: Path, small: Experiment, make_result: Callable[..., Result]) -> list[Result]:
    """LSUV × ReLU: two seeds that converge, and one at chance."""
    runs = [run for run in small.runs() if (run.init, run.activation) == ("lsuv", "relu")]
    results = [make_result(run, accuracy) for run, accuracy in zip(runs, ACCURACIES, strict=True)]
    for result in results:
        put(result, tmp_path / "runs" / result.run.run_id)
    return results


def test_curves_are_averaged_over_the_runs_given(tmp_path: Path, relu: list[Result], read: Read) -> None:
    for result, first, tail in zip(relu, (20, 40, 10), ("", "300,3", "x"), strict=True):
        path = tmp_path / "runs" / result.run.run_id / "curve.csv"
        path.write_text(f"iteration,epoch,test_accuracy\n100,1,{first}\n200,2,{result.test_accuracy}\n{tail}")
    curves = read(relu).curves
    assert curves["value"].to_list() == [20, 80, 40, 90, 10, 10]  # rows that were cut off are left out
    assert curves.iloc[0].to_list() == [0, 1, relu[0].run.run_id, 0, "converged", "test_accuracy", 100, 1.0, 20.0]
    means = averaged(curves[curves["status"] == "converged"], "iteration")
    assert means.to_numpy().tolist() == [[0, 1, 100, 30, 20, 40], [0, 1, 200, 85, 80, 90]]
    crashed = [replace(result, status="error", test_accuracy=None) for result in relu]
    assert read(crashed).curves.empty


def test_variances_are_averaged_geometrically_in_forward_order(relu: list[Result], read: Read) -> None:
    # names out of alphabetical order: the order of the list counts
    names = [("stem", 0), ("stem", 1), ("classifier", 0), ("body", 0)]
    reports = [
        [{"layer": name, "piece": piece, "variance": value} for (name, piece), value in zip(names, values, strict=True)]
        for values in ((1.0, 4.0, None, 0.01), (1.0, 4.0, 0.0, 1.0))
    ]
    frames = read([replace(result, init=init) for result, init in zip(relu[:2], reports, strict=True)])
    assert frames.init_variance["value"].isna().sum() == 2  # zero and unknown have no place on a log axis
    means = averaged(frames.init_variance, "position", "layer", geometric=True)
    assert means["layer"].to_list() == ["stem", "body"]
    assert means["position"].to_list() == [0, 2]
    assert means[["mean", "low", "high"]].to_numpy() == pytest.approx(np.array([[2, 1, 4], [0.1, 0.01, 1]]))


def test_layers_of_each_snapshot(tmp_path: Path, relu: list[Result], read: Read) -> None:
    write(tmp_path, relu[0], (0, [layer(variance=1), layer(piece=1, variance=4), layer("fc1", variance=9)]))
    write(tmp_path, relu[1], (0, [layer(variance=2), layer(piece=1, variance=0)]), (7, [layer(variance=None)]))
    broken = write(tmp_path, relu[2])
    broken.write_text("{")
    frames = read(relu)
    assert list(frames.bad) == [broken]
    layers = frames.layers[frames.layers["quantity"] == "variance"]
    assert layers["iteration"].to_list() == [0, 0, 0, 0, 0, 7]
    assert layers["value"].isna().sum() == 2
    means = averaged(layers, "iteration", "position", "layer", geometric=True)
    assert means[["iteration", "position", "layer"]].to_numpy().tolist() == [[0, 0, "conv1"], [0, 1, "fc1"]]
    # the third root of 1 · 4 · 2
    assert means[["mean", "low", "high"]].to_numpy() == pytest.approx(np.array([[2, 1, 4], [9, 9, 9]]))


def test_spectra_of_the_first_and_the_last_snapshot(tmp_path: Path, relu: list[Result], read: Read) -> None:
    for result, factor in zip(relu[:2], (1, 4), strict=True):
        start, end = [8.0 * factor, 2.0 * factor, 0.0], [2.0 * factor, 1.0 * factor, 0.5 * factor]
        write(
            tmp_path, result, *((at, [layer(singular=values)]) for at, values in ((0, start), (9, (7, 7)), (99, end)))
        )
    write(tmp_path, relu[2], (0, [layer(singular=())]))
    spectra = read(relu).spectra
    assert spectra["value"].isna().sum() == 2
    means = averaged(spectra, "position", "after", "share", geometric=True)
    values = dict(zip(zip(means["after"], means["share"], strict=True), means["mean"], strict=True))
    assert values == pytest.approx({(False, 0): 16, (False, 0.5): 4, (True, 0): 4, (True, 0.5): 2, (True, 1): 1})


def test_without_any_files_all_frames_are_empty(relu: list[Result], read: Read) -> None:
    frames = read(relu)
    for frame in (frames.curves, frames.init_variance, frames.layers, frames.spectra):
        assert frame.empty
        assert averaged(frame, geometric=True).empty
