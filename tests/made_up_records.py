"""Made-up records, cells and output folders for the tests of reports, and for experiments/measure_report.py."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from workers import put

from replicate.experiment import Experiment
from replicate.report.cell import Cell
from replicate.run import Run
from replicate.store.measurements import Predictions, labels_sha256
from replicate.store.result import Result
from replicate.store.run_folder import Records

ROOT = Path(__file__).parents[1]
LAYERS = (*(f"conv{number}" for number in range(1, 18)), "fc1", "fc2")
LABELS = np.arange(10_000) % 10
HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
# final test accuracy in %, and the factor by which a layer changes the variance
LEVELS = {"lsuv": (93, 1.0), "orthonormal": (92.5, 0.7), "orthonormal_msra": (92.8, 1.1), "xavier": (91, 0.5)}


def make_result(run: Run, accuracy: float | None, status: str = "", **changes: Any) -> Result:
    """A record; the default status follows from the accuracy on ten classes."""
    fields: dict[str, Any] = {
        "status": status or ("diverged" if accuracy is None else "converged" if accuracy > 15 else "not_converged"),
        "train_loss": None if accuracy is None else 0.25,
        "iteration": run.iterations,
        "seconds": 12.5,
        "images_per_second": 4000.0,
        "data_label": "CIFAR-10",
        "fingerprint": "3f" * 32,
        "commit": "0123456789abcdef",
        "dirty": False,
        "versions": {"torch": "2.11"},
        "device": "cpu",
        "options": {"threads": 1},
        "finished": "2026-01-01T00:00:00+00:00",
        "classes": 10,
    }
    return Result(run, test_accuracy=accuracy, **{**fields, **changes})


def make_records(results: Iterable[Result], others: int = 0, bad: Mapping[Path, str] = {}) -> Records:
    return Records({result.run.run_id: result for result in results}, bad, others)


def make_cell(
    init: str, activation: str, accuracies: Iterable[float] = (), failed: int = 0, errors: int = 0, **settings: Any
) -> Cell:
    """A cell of five seeds from its accuracies and numbers of failures; keywords are other settings of its runs."""
    values, run = tuple(accuracies), Run(init, activation, **settings)
    counts = {"not_converged": failed // 2, "diverged": failed - failed // 2, "errors": errors}
    return Cell(5, tuple(range(len(values))), values, **counts, row=init, column=activation, run=run)


def many(seeds: int) -> Experiment:
    """The experiment of the paper's table, with this number of seeds."""
    return Experiment.load(ROOT / "experiments" / "table3.yaml").with_settings({"seed": list(range(seeds))})


def write_predictions(folder: Path, accuracy: float, seed: int) -> None:
    """Write a `predictions.npz` of this accuracy, in %; the seed says which images are wrong."""
    wrong = np.arange(round(100 * (100 - accuracy))) * (1 + seed) % len(LABELS)
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    (folder / "predictions.npz").write_bytes(Predictions(predicted, labels_sha256(LABELS)).to_npz())


def write_layers(folder: Path, result: Result, snapshots: Mapping[int, Sequence[dict[str, Any]]]) -> Path:
    """Write a `layers.json`: iteration -> layers."""
    moments = [{"iteration": iteration, "layers": layers} for iteration, layers in snapshots.items()]
    content = {"schema": 1, "run_id": result.run.run_id, "fingerprint": result.fingerprint, "moments": moments}
    path = folder / "layers.json"
    path.write_text(json.dumps(content))
    return path


def layer(name: str = "conv1", piece: int = 0, variance: Any = 1.0, gradient: float = 0.5, singular: Any = ()) -> Any:
    """An entry of a `layers.json`."""
    return {"name": name, "piece": piece, "variance": variance, "gradient_norm": gradient, "singular_values": singular}


def fill(out: Path, runs: Sequence[Run], points: int = 231, layers: bool = True) -> list[Result]:
    """Write the files of these runs; sigmoid stays at chance, MSRA × maxout diverges."""
    return [_write_run(out, run, points, layers) for run in runs]


def _write_run(out: Path, run: Run, points: int, layers: bool) -> Result:
    rng = np.random.default_rng([run.seed, *run.run_id.encode()])
    level, factor = LEVELS.get(run.init, (91.5, 1.3))
    diverged, chance = (run.init, run.activation) == ("msra", "maxout"), run.activation == "sigmoid"
    accuracy = None if diverged else 10.0 if chance else round(level + rng.normal(0, 0.2), 2)
    depths = [(depth, piece) for depth in range(len(LAYERS)) for piece in range(2 if run.activation == "maxout" else 1)]
    rescaled = {"variance_before": 0.5, "tries": 3, "converged": True} if run.init == "lsuv" else {}
    init = [{"layer": LAYERS[at], "piece": piece, "variance": factor**at, **rescaled} for at, piece in depths]
    iteration = 57 if diverged else run.iterations
    gpu: dict[str, Any] = {"device": "NVIDIA H200", "options": {"device": "cuda"}, "seconds": 5400.0}
    result = make_result(run, accuracy, iteration=iteration, init=init, **gpu)
    folder = out / "runs" / run.run_id
    put(result, folder)
    steps = [] if accuracy is None else np.linspace(run.iterations / points, run.iterations, points).round()
    (folder / "curve.csv").write_text(HEAD + "".join(_row(run, step, accuracy or 0) for step in steps))
    if accuracy is not None:
        write_predictions(folder, accuracy, run.seed)
    if layers:
        singular = sorted(rng.gamma(2, 1, 32), reverse=True)
        snapshots = {}
        for at in (0, 1000, iteration) if iteration > 1000 else (0, iteration):
            variances = [math.exp(rng.normal(0, 0.1)) * factor**depth for depth, _ in depths]
            snapshots[at] = [
                layer(LAYERS[depth], piece, variance, 0.1 * factor**-depth, singular)
                for (depth, piece), variance in zip(depths, variances, strict=True)
            ]
        write_layers(folder, result, snapshots)
    return result


def _row(run: Run, step: float, accuracy: float) -> str:
    risen = 1 - math.exp(-6 * step / run.iterations) * (step < run.iterations)
    now, loss = 10 + (accuracy - 10) * risen, 2.3 - 2.2 * risen * (accuracy > 15)
    return f"{step:.0f},{step * run.batch_size / 50_000:.6g},{run.lr},{loss:.5f},{now:.5f},{1.1 * loss:.5f},{now:.2f}\n"
