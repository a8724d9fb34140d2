from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicate.experiment import Experiment, TableSpec
from replicate.report.statistics import Cell
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records

ROOT = Path(__file__).parents[2]
MARK = "3f" * 32


def _result(run: Run, accuracy: float | None, status: str = "", **changes: Any) -> Result:
    """A record; without a status, it is that of the accuracy on ten classes."""
    if not status:
        status = "diverged" if accuracy is None else "converged" if accuracy > 15 else "not_converged"
    fields: dict[str, Any] = {
        "train_loss": None if accuracy is None else 0.25,
        "iteration": run.iterations,
        "seconds": 12.5,
        "images_per_second": 4000.0,
        "data_label": "CIFAR-10",
        "fingerprint": MARK,
        "commit": "0123456789abcdef",
        "dirty": False,
        "versions": {"torch": "2.11"},
        "device": "cpu",
        "options": {"threads": 1},
        "finished": "2026-01-01T00:00:00+00:00",
        "classes": 10,
    }
    return Result(run, status, test_accuracy=accuracy, **{**fields, **changes})


@pytest.fixture
def make_result() -> Callable[..., Result]:
    return _result


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """A cell by its accuracies and its failures; other settings of its runs as keywords."""

    def make(
        init: str,
        activation: str,
        accuracies: Iterable[float] = (),
        *,
        not_converged: int = 0,
        diverged: int = 0,
        errors: int = 0,
        expected: int = 5,
        **settings: Any,
    ) -> Cell:
        values = tuple(accuracies)
        run = Run(init, activation, **settings)
        return Cell(init, activation, run, expected, tuple(range(len(values))), values, not_converged, diverged, errors)

    return make


@pytest.fixture
def make_records() -> Callable[..., Records]:
    def make(results: Iterable[Result], others: int = 0, bad: dict[Path, str] | None = None) -> Records:
        return Records({result.run.run_id: result for result in results}, bad or {}, others)

    return make


@pytest.fixture
def small() -> Experiment:
    """Two inits, two activations, three seeds, and a dash, by the paper's protocol."""
    return Experiment(
        name="small",
        grid={"init": ("lsuv", "orthonormal_msra"), "activation": ("maxout", "relu"), "seed": (0, 1, 2)},
        run={},
        exclude=({"init": "orthonormal_msra", "activation": "maxout"},),
        table=TableSpec(
            reference=ROOT / "results" / "paper" / "table3.csv", claims=ROOT / "results" / "paper" / "claims.yaml"
        ),
    )


@pytest.fixture
def small_results(small: Experiment) -> list[Result]:
    """LSUV × maxout at 93.8, 94.0 and 94.2; LSUV × ReLU at 92.1, 92.3 and chance; the last: one diverged."""
    numbers = {
        ("lsuv", "maxout"): (93.8, 94.0, 94.2),
        ("lsuv", "relu"): (92.1, 92.3, 10.0),
        ("orthonormal_msra", "relu"): (None,),
    }
    return [
        _result(run, numbers[run.init, run.activation][run.seed])
        for run in small.runs()
        if run.seed < len(numbers[run.init, run.activation])
    ]


@pytest.fixture
def curve_results(small_results: list[Result]) -> list[Result]:
    """Records with reports of the initialisation: LSUV at a variance of one half, the other at none."""

    def report(value: float | None) -> list[dict[str, Any]]:
        return [{"layer": name, "piece": 0, "variance": value} for name in ("conv1", "conv2", "fc1")]

    return [replace(result, init=report(0.5 if result.run.init == "lsuv" else None)) for result in small_results]


@pytest.fixture
def curve_out(tmp_path: Path, curve_results: list[Result]) -> Path:
    """Curves of two rows for the runs that have an accuracy; the diverged run's holds none."""
    for result in curve_results:
        folder = tmp_path / "runs" / result.run.run_id
        folder.mkdir(parents=True)
        rows = [(45_000, 115.2, 60.0), (90_000, 230.4, result.test_accuracy)] if result.test_accuracy else []
        lines = [f"{iteration},{epoch},0.01,1,50,1,{accuracy}\n" for iteration, epoch, accuracy in rows]
        head = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
        (folder / "curve.csv").write_text(head + "".join(lines))
    return tmp_path
