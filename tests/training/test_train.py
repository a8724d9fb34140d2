"""Training a run, for real, on the synthetic images."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import train_run

from replicate.data import batches as data_batches
from replicate.data.sources import load
from replicate.errors import GraphError
from replicate.options import Options
from replicate.run import INITS, Run
from replicate.store.result import read_result
from replicate.store.run_folder import RunFolder
from replicate.training import train
from replicate.training.cuda_graph import CudaGraph

pytestmark = pytest.mark.usefixtures("few_images")


def curve(options: Options, run: Run) -> list[dict[str, str]]:
    with (options.out / "runs" / run.run_id / "curve.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_its_record_and_its_curve(tiny: Run, options: Options) -> None:
    heard: list[tuple[int, float | None]] = []
    run = replace(tiny, batch_size=25)  # 100 images: a pass is 4 iterations
    result = train_run(run, options, lambda *news: heard.append(news))
    assert result == read_result(options.out / "runs" / run.run_id / "result.json")
    assert result.error is None
    assert result.status in ("converged", "not_converged")
    assert (result.iteration, result.data_label, result.device) == (8, "synthetic shapes", result.device)
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
    assert heard[-1] == (8, result.test_accuracy)


def test_the_same_run_twice_gives_the_same_numbers(tiny: Run, options: Options, tmp_path: Path) -> None:
    first = train_run(tiny, options)
    torch.manual_seed(123)  # what happened in the process before must not matter
    second = train_run(tiny, replace(options, out=tmp_path / "again"))
    assert curve(options, tiny) == curve(replace(options, out=tmp_path / "again"), tiny)
    assert first.init == second.init
    assert first.weights_sha256 == second.weights_sha256
    assert train_run(replace(tiny, seed=1), options).train_loss != first.train_loss


def test_the_predictions_are_those_that_the_accuracy_counts(tiny: Run, options: Options) -> None:
    result = train_run(tiny, options)
    predictions = RunFolder.of(options.out, tiny).predictions()
    labels = load("synthetic", options.data_dir).test_labels
    assert 100 * predictions.correct(labels).mean() == pytest.approx(result.test_accuracy, rel=1e-15)
    diverging = replace(tiny, lr=1e3, seed=1)
    folder = RunFolder.of(options.out, diverging)
    folder.path.mkdir()
    (folder.path / "predictions.npz").write_bytes(b"of an earlier attempt")
    assert train_run(diverging, options).status == "diverged"
    assert not (folder.path / "predictions.npz").exists()


def test_the_digest_is_of_the_final_weights(tiny: Run, options: Options) -> None:
    first = train_run(tiny, options)
    shorter = train_run(replace(tiny, iterations=7), options)
    assert len({first.weights_sha256, shorter.weights_sha256, None}) == 3


def test_all_inits_of_a_seed_see_the_same_training_batches(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Recorded where batches are made: every batch given out in training, LSUV's own stream apart.
    taken: dict[int, list[str]] = {}
    original = data_batches.BatchStream.__next__

    def record(self: data_batches.BatchStream) -> data_batches.Batch:
        batch = original(self)
        digest = hashlib.sha256(b"".join(numbers.numpy().tobytes() for numbers in batch)).hexdigest()
        taken.setdefault(id(self), []).append(digest)
        return batch

    monkeypatch.setattr(data_batches.BatchStream, "__next__", record)
    seen = {}
    for init in INITS:
        taken.clear()
        result = train_run(replace(tiny, init=init, activation="tanh", iterations=5), options)
        assert result.error is None
        (seen[init],) = [tuple(digests) for digests in taken.values() if len(digests) == 5]
    assert len(set(seen.values())) == 1


def test_a_loss_that_is_not_finite_is_a_record(tiny: Run, options: Options) -> None:
    result = train_run(replace(tiny, lr=1000, iterations=50), options)
    assert result.status == "diverged"
    assert result.weights_sha256 is None
    assert result.test_accuracy is None
    assert result.error is None
    assert 0 < result.iteration < 50
    text = (options.out / "runs" / result.run.run_id / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_failure_is_a_record_with_its_traceback(tiny: Run, options: Options) -> None:
    result = train_run(replace(tiny, dataset="folder:nowhere"), options)
    assert result.status == "error"
    assert "nowhere" in result.error
    assert result.fingerprint == "unknown"
    assert read_result(options.out / "runs" / result.run.run_id / "result.json") == result


def test_a_failure_before_the_training_leaves_no_curve_of_an_earlier_attempt(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run(tiny, options)
    assert curve(options, tiny) != []

    def fail(*_: object) -> None:
        raise RuntimeError("no initialisation")

    monkeypatch.setattr("replicate.training.train.init_net_", fail)
    assert "no initialisation" in train_run(tiny, options).error
    assert curve(options, tiny) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA starts here")
def test_a_gpu_that_cannot_start_is_a_record(tiny: Run, options: Options) -> None:
    result = train_run(tiny, replace(options, device="cuda"))
    assert result == read_result(options.out / "runs" / tiny.run_id / "result.json")
    assert (result.status, result.device) == ("error", "cuda")
    assert "CUDA" in result.error or "NVIDIA" in result.error


def test_a_graph_that_fails_is_a_record_only_if_it_was_asked_for(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(CudaGraph, "_capture", impossible)
    result = train_run(tiny, replace(options, step="graph"))
    assert "GraphError: graph: operation not permitted when stream is capturing" in result.error
    assert result.environment["step"] == "graph"
    monkeypatch.setattr(train, "steps_for", lambda options: CudaGraph())  # as on a GPU
    with pytest.raises(GraphError):
        train_run(tiny, options)


def test_a_run_whose_graph_failed_trains_eagerly_and_says_so(tiny: Run, options: Options, tmp_path: Path) -> None:
    plain = train_run(tiny, options)
    again = train_run(tiny, replace(options, out=tmp_path / "again", graph_failure="graph: its losses differ"))
    assert again.environment["step"] == "eager (graph: its losses differ)"
    assert "graph_failure" not in again.options
    assert again.weights_sha256 == plain.weights_sha256


def test_replays_end_in_the_same_bits(tiny: Run, options: Options, tmp_path: Path) -> None:
    eager = train_run(tiny, options)
    graph = train_run(tiny, replace(options, out=tmp_path / "graph", step="graph"))
    assert (graph.environment["step"], graph.weights_sha256) == ("graph", eager.weights_sha256)


def test_chance_is_not_convergence(tiny: Run, options: Options) -> None:
    result = train_run(replace(tiny, init="orthonormal", activation="sigmoid", lr=1e-9), options)
    assert result.test_accuracy < 15  # ten classes: up to 1.5 × 10 % counts as chance
    assert result.status == "not_converged"


@pytest.mark.parametrize("activation", ["maxout", "vlrelu"])
def test_bf16_trains_from_the_same_weights_as_float32(tiny: Run, options: Options, activation: str) -> None:
    full = train_run(replace(tiny, activation=activation), options)
    mixed = train_run(replace(tiny, activation=activation, precision="bf16-mixed"), options)
    assert mixed.init == full.init  # initialised in float32, whatever the precision
    assert mixed.train_loss == pytest.approx(full.train_loss, rel=0.05)
    assert mixed.train_loss != full.train_loss


def test_clipping_changes_the_run_only_where_the_gradient_is_longer(tiny: Run, options: Options) -> None:
    free = train_run(tiny, options).train_loss
    assert train_run(replace(tiny, clip_norm=1e6), options).train_loss == pytest.approx(free, rel=1e-5)
    assert train_run(replace(tiny, clip_norm=1e-3), options).train_loss != pytest.approx(free, rel=1e-5)


def test_a_failure_of_wandb_costs_no_result(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(wandb, "init", fail)
    assert train_run(tiny, replace(options, wandb="online")).error is None
    assert "W&B: ConnectionError('no server')" in capsys.readouterr().out


class Broken:
    """A W&B run after its server and its disk are gone."""

    def __getattr__(self, name: str) -> None:
        raise OSError(f"no {name}")


def test_a_wandb_run_that_breaks_costs_no_result(
    tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    result = train_run(tiny, replace(options, wandb="online"))
    assert result.error is None
    assert result.iteration == 8
    text = capsys.readouterr().out
    for name in ("define_metric", "starting_step", "summary", "finish"):
        assert f"W&B: OSError('no {name}')" in text


def test_the_commit_is_the_one_that_the_matrix_found(tiny: Run, options: Options) -> None:
    result = train_run(replace(tiny, iterations=1, milestones=[]), replace(options, commit=("abc", True)))
    assert (result.commit, result.dirty) == ("abc", True)
    assert "commit" not in result.options
