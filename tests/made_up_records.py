"""Whole output folders of made-up records: curves, reports of the initialisation, and layers, from a seed."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from workers import put

from replicate.experiment import Experiment
from replicate.run import Run
from replicate.store.predictions import Predictions, labels_sha256
from replicate.store.result import Result

LAYERS = (*(f"conv{number}" for number in range(1, 18)), "fc1", "fc2")
LABELS = np.arange(10_000) % 10
HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
# test accuracy at the end, in %, and by which factor a layer changes the variance
LEVELS = {
    "lsuv": (93, 1.0),
    "orthonormal": (92.5, 0.7),
    "orthonormal_msra": (92.8, 1.1),
    "xavier": (91, 0.5),
    "msra": (91.5, 1.3),
}


def fill(out: Path, runs: Sequence[Run], points: int = 231, layers: bool = True) -> list[Result]:
    """Write records of these runs, as a training would: sigmoid stays at chance, MSRA × maxout diverges."""
    return [_one(out, run, points, layers) for run in runs]


def many(seeds: int) -> Experiment:
    """The paper's table, with so many seeds."""
    root = Path(__file__).parents[1]
    return Experiment.load(root / "experiments" / "table3.yaml").with_settings({"seed": list(range(seeds))})


def _one(out: Path, run: Run, points: int, layers: bool) -> Result:
    rng = np.random.default_rng([run.seed, *run.run_id.encode()])
    level, factor = LEVELS[run.init]
    diverged, chance = (run.init, run.activation) == ("msra", "maxout"), run.activation == "sigmoid"
    accuracy = None if diverged else round(10.0 if chance else level + float(rng.normal(0, 0.2)), 2)
    pieces = 2 if run.activation == "maxout" else 1
    variances = [factor**depth * math.exp(rng.normal(0, 0.05)) for depth in range(len(LAYERS))]
    rescaled = run.init == "lsuv"
    init = [
        {
            "layer": name,
            "piece": piece,
            "variance": variance,
            "variance_before": 0.5 * variance if rescaled else None,
            "variance_after": 1.01 if rescaled else None,
            "tries": int(rng.integers(1, 6)) if rescaled else None,
            "converged": True if rescaled else None,
        }
        for name, variance in zip(LAYERS, variances, strict=True)
        for piece in range(pieces)
    ]
    result = Result(
        run=run,
        status="diverged" if diverged else "not_converged" if chance else "converged",
        test_accuracy=accuracy,
        train_loss=None if diverged else 0.1,
        iteration=57 if diverged else run.iterations,
        init=init,
        seconds=5400.0 + run.seed,
        images_per_second=4000.0,
        data_label="CIFAR-10",
        fingerprint="3f" * 32,
        commit="0123456789abcdef0123456789abcdef01234567",
        dirty=False,
        versions={"python": "3.11.7", "torch": "2.15.0"},
        device="NVIDIA H200",
        options={"device": "cuda", "threads": 1},
        finished=f"2026-01-{1 + run.seed % 28:02d}T00:00:00+00:00",
        classes=10,
    )
    folder = out / "runs" / run.run_id
    put(result, folder)
    steps = [] if accuracy is None else np.linspace(run.iterations / points, run.iterations, points).round()
    (folder / "curve.csv").write_text(HEAD + "".join(_row(run, step, accuracy or 0, rng) for step in steps))
    if accuracy is not None:
        wrong = np.argsort(rng.random(len(LABELS)))[round(100 * accuracy) :]
        predicted = LABELS.copy()
        predicted[wrong] = (predicted[wrong] + 1) % 10
        content = Predictions(predicted, labels_sha256(LABELS)).to_npz()
        (folder / "predictions.npz").write_bytes(content)
    if layers:
        moments = [
            _moment(rng, iteration, factor, pieces)
            for iteration in (0, 1000, result.iteration)
            if iteration <= result.iteration
        ]
        measured = {"schema": 1, "run_id": run.run_id, "fingerprint": result.fingerprint, "moments": moments}
        (folder / "layers.json").write_text(json.dumps(measured))
    return result


def _row(run: Run, step: float, accuracy: float, rng: np.random.Generator) -> str:
    risen = 1 - math.exp(-6 * step / run.iterations)
    now = 10 + (accuracy - 10) * risen + float(rng.normal(0, 0.3)) * (1 - risen)
    loss = 2.3 - 2.2 * risen * (accuracy > 15)
    return f"{step:.0f},{step * run.batch_size / 50_000:.6g},{run.lr},{loss:.5f},{now:.5f},{1.1 * loss:.5f},{now:.2f}\n"


def _moment(rng: np.random.Generator, iteration: int, factor: float, pieces: int) -> dict[str, object]:
    pull = 1.0 if iteration == 0 else 0.5  # training draws the variances together
    entries = []
    for depth, name in enumerate(LAYERS):
        for piece in range(pieces):
            noise = math.exp(rng.normal(0, 0.1))
            singular = np.sort(rng.gamma(2, 1 + iteration / 20_000, 32))[::-1]
            entries.append(
                {
                    "name": name,
                    "piece": piece,
                    "variance": factor ** (pull * depth) * noise,
                    "gradient_norm": 0.1 * factor ** (pull * (len(LAYERS) - depth)) * noise,
                    "singular_values": singular.tolist(),
                }
            )
    return {"iteration": iteration, "layers": entries}
