"""Training a run, for real, on the synthetic images."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_images import mnist_files
from runs import train_run

from replicate.data import load, load_test_labels, mnist
from replicate.errors import GraphError
from replicate.experiment import Experiment
from replicate.options import Options
from replicate.run import Run
from replicate.store.measurements import read_predictions
from replicate.store.result import read_result
from replicate.store.run_folder import RunFolder
from replicate.training import train
from replicate.training.cuda_graph import CudaGraph
from replicate.training.logger import Logger
from replicate.training.module import Batch, Classifier, Eager

pytestmark = pytest.mark.usefixtures("few_images")


def curve(options: Options, run: Run) -> list[dict[str, str]]:
    return [*csv.DictReader((options.out / "runs" / run.run_id / "curve.csv").read_text().splitlines())]


def test_settings_beyond_the_paper(tiny: Run, options: Options) -> None:
    settings = {"preprocessing": "channel-mean-std", "zoom": 0.3, "colour_jitter": 0.4, "cutout": 8}
    settings |= {"ema": 0.5, "test_mirror": True, "validation": 10}
    run = replace(tiny, init="xavier", activation="prelu", precision="bf16-mixed", **settings)
    result = train_run(run, replace(options, save_probabilities=True))
    assert result.error is None
    found = read_predictions(RunFolder.of(options.out, run))
    assert (found.probabilities.shape, found.probabilities.dtype) == ((10, 10), np.float16)
    assert found.probabilities.sum(1) == pytest.approx(np.ones(10), abs=0.01)
    assert (found.probabilities[range(10), found.classes] == found.probabilities.max(1)).all()  # in float16 some tie
    assert result == read_result(RunFolder.of(options.out, run).result)
    assert (result.test_images, result.data_label) == (10, "synthetic shapes (10 validation images)")
    labels = load_test_labels("synthetic", 10, options.data_dir)
    assert 100 * found.correct(labels).mean() == pytest.approx(result.test_accuracy)
    assert {replace(run, **{name: getattr(tiny, name)}).run_id for name in settings}.isdisjoint({run.run_id})
    other = train_run(replace(run, zoom=0.2), options)
    assert other.weights_sha256 != result.weights_sha256 is not None


@pytest.mark.parametrize(
    "name",
    [
        *("lsuv-vs-bn", "depth", "fitnet1", "fitresnet4", "cifar100-rmsprop", "inits"),
        *("lsuv-batch-size", "lsuv-tolerance", "lsuv-start"),
    ],
)
def test_the_last_run_of_an_experiment_at_a_small_size(name: str, options: Options) -> None:
    run = Experiment.load(Path(__file__).parents[2] / "experiments" / f"{name}.yaml").runs()[-1]
    small = {"dataset": "synthetic", "width": 0.0625, "batch_size": 8, "iterations": 2, "milestones": ()}
    size = min(run.lsuv_batch_size, 32)
    result = train_run(replace(run, **small, precision="32-true", lsuv_max_iter=1, lsuv_batch_size=size), options)
    assert (result.error, result.iteration) == (None, 2)
    assert result.test_accuracy is not None


def test_grey_images_of_28_pixels_are_learned(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = mnist_files(options.data_dir / mnist.FOLDER, train=200, test=50)
    monkeypatch.setattr(mnist, "FILES", {name: digests[Path(name).name] for name in mnist.FILES})
    experiment = Experiment.load(Path(__file__).parents[2] / "experiments" / "mnist.yaml")
    settings = {"iterations": 60, "milestones": [], "lsuv_max_iter": 1, "precision": "32-true", "batch_size": 20}
    run = replace(experiment.runs({"init": "lsuv", "activation": "maxout", "seed": 0})[0], **settings)
    result = train_run(run, options)
    assert (result.error, result.data_label, result.classes) == (None, "MNIST", 10)
    assert [entry["layer"] for entry in result.init[::2]] == [*(f"conv{i}" for i in range(1, 7)), "fc1"]
    assert result.test_accuracy > 50


def test_a_run_leaves_its_record_its_curve_and_its_predictions(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[tuple[int, float | None, str]] = []
    run = replace(tiny, batch_size=25)  # 100 images: a pass is 4 iterations
    monkeypatch.setattr(Logger, "start", lambda *_: "https://example.org/1\n")
    result = train_run(
        run, options, lambda iteration, accuracy, stage="": progress.append((iteration, accuracy, stage))
    )
    assert result == read_result(options.out / "runs" / run.run_id / "result.json")
    assert result.error is None
    assert result.status in ("converged", "not_converged")
    assert (result.iteration, result.data_label) == (8, "synthetic shapes")
    assert result.url == r"https://example.org/1\n"  # a line
    assert len(result.fingerprint) == 64
    assert (result.classes, result.test_images, result.parts) == (10, 20, None)
    assert result.environment["threads"] == result.options["threads"] == 1
    assert [entry["layer"] for entry in result.init] == [f"conv{i}" for i in range(1, 18)] + ["fc1", "fc2"]
    assert result.images_per_second > 0
    assert result.versions["torch"] == torch.__version__.partition("+")[0]
    rows = curve(options, run)
    assert ",".join(rows[0]) == "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy"
    assert [(row["iteration"], row["epoch"], row["lr"]) for row in rows] == [("4", "1", "0.01"), ("8", "2", "0.001")]
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(result.test_accuracy)
    assert float(rows[-1]["train_loss"]) == pytest.approx(result.train_loss)
    assert result.init_passes > 19  # LSUV measures each layer at least once
    layers = [f"initialising layer {number} of 19" for number in range(1, 20)]
    stages = ("reading data", "initialising", *layers, "first iterations")
    assert progress[:22] == [(0, None, stage) for stage in stages]
    assert progress[-1] == (8, result.test_accuracy, "")
    right = read_predictions(RunFolder.of(options.out, run)).correct(load("synthetic", options.data_dir).test_labels)
    assert 100 * right.mean() == pytest.approx(result.test_accuracy, rel=1e-15)

    # An attempt that fails leaves nothing of this one.
    monkeypatch.setattr(train, "init_net_", lambda *_: os.stat("x" * 200_000 + "\udcff"))
    failed = train_run(run, options)
    assert failed == read_result(options.out / "runs" / run.run_id / "result.json")
    assert (len(failed.error), failed.error[-9:]) == (100_000, "x\\udcff'\n")
    assert curve(options, run) == []
    with pytest.raises(FileNotFoundError):
        read_predictions(RunFolder.of(options.out, run))


def test_all_inits_of_a_seed_see_the_same_training_batches(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = Eager.__call__

    def train(self: Eager, module: Classifier, optimizer: Any, chunk: Iterable[Batch]) -> torch.Tensor:
        batches = list(chunk)
        for batch in batches:
            seen[-1] += hashlib.sha256(b"".join(part.numpy().tobytes() for part in batch)).hexdigest()
        return original(self, module, optimizer, batches)

    monkeypatch.setattr(Eager, "__call__", train)
    for init in ("lsuv", "orthonormal", "xavier", "zeros"):
        seen.append("")
        assert train_run(replace(tiny, init=init, activation="tanh", iterations=5), options).error is None
    assert len(seen[0]) == 5 * 64
    assert set(seen) == {seen[0]}


def test_a_loss_that_is_not_finite_is_a_record(tiny: Run, options: Options) -> None:
    result = train_run(replace(tiny, lr=1000, iterations=50), options)
    assert (result.status, result.weights_sha256, result.test_accuracy, result.error) == ("diverged", None, None, None)
    assert 0 < result.iteration < 50
    text = (options.out / "runs" / result.run.run_id / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA starts here")
def test_a_gpu_that_cannot_start_is_a_record(tiny: Run, options: Options) -> None:
    result = train_run(tiny, replace(options, device="cuda"))
    assert result == read_result(options.out / "runs" / tiny.run_id / "result.json")
    assert (result.status, result.device) == ("error", "cuda")
    assert "CUDA" in result.error or "NVIDIA" in result.error


def test_a_graph_that_fails_is_a_record_only_if_a_graph_was_requested(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaGraph, "capture", lambda graph: 1 / 0)
    result = train_run(tiny, replace(options, step="graph"))
    assert "GraphError: graph: division by zero" in result.error
    assert result.environment["step"] == "graph"
    monkeypatch.setattr(train, "steps_for", lambda *_: CudaGraph())  # as on a GPU
    with pytest.raises(GraphError):
        train_run(tiny, options)


def test_bf16_trains_from_the_same_weights_as_float32(tiny: Run, options: Options) -> None:
    full = train_run(replace(tiny, activation="maxout"), options)
    mixed = train_run(replace(tiny, activation="maxout", precision="bf16-mixed"), options)
    assert mixed.init == full.init  # initialised in float32, whatever the precision
    assert mixed.train_loss == pytest.approx(full.train_loss, rel=0.05)
    assert mixed.train_loss != full.train_loss
