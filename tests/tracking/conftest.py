"""An experiment of four runs, and records of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicate.experiment import Experiment, TableSpec
from replicate.run import Run
from replicate.store.result import Result

PAPER = Path(__file__).parents[2] / "results" / "paper"


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="two by two",
        grid={"init": ("lsuv", "xavier"), "activation": ("relu", "sigmoid"), "seed": (0,)},
        run={"iterations": 8, "milestones": [4]},
        table=TableSpec(reference=PAPER / "table3.csv", claims=PAPER / "claims.yaml"),
    )


@pytest.fixture
def make_result() -> Callable[..., Result]:
    def make(run: Run, accuracy: float | None, **changes: Any) -> Result:
        fields: dict[str, Any] = {
            "status": "diverged" if accuracy is None else "converged",
            "test_accuracy": accuracy,
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
        return Result(run, **{**fields, **changes})

    return make
