import json
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_records import LABELS

from replicate.experiment import Experiment, TableSpec
from replicate.report.cell import Cell
from replicate.report.table import Table, assemble
from replicate.run import Run
from replicate.store.predictions import Predictions, labels_sha256
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
        counts = (not_converged, diverged, errors)
        run = Run(init, activation, **settings)
        return Cell(expected, tuple(range(len(values))), values, *counts, row=init, column=activation, run=run)

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


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a file in tests/report/golden; UPDATE_GOLDEN=1 in the environment writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            assert json.loads(text) == _approximate(json.loads(expected))
        else:
            assert text == expected

    return compare


def _approximate(value: Any) -> Any:
    """Numbers may differ in their last digits between processors."""
    if isinstance(value, dict):
        return {key: _approximate(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_approximate(item) for item in value]
    return pytest.approx(value, rel=1e-9) if isinstance(value, float) else value


@pytest.fixture
def everything(tmp_path: Path, small: Experiment, make_records: Callable[..., Records]) -> Table:
    """A table with every kind of cell, and with curves, layers, reports and predictions in `tmp_path`.

    Its numbers are written out, not drawn, so that what is rendered is the same everywhere.
    """
    asked = small.with_settings({"init": ["lsuv", "xavier", "orthonormal_msra"]})
    numbers: dict[tuple[str, str], tuple[float | None, ...]] = {
        ("lsuv", "maxout"): (93.8, 94.0, 94.2),
        ("lsuv", "relu"): (92.1, 92.3, 10.0),
        ("xavier", "maxout"): (91.5, 91.9, 92.0),
        ("xavier", "relu"): (None, None),
        ("orthonormal_msra", "relu"): (),
    }
    made = []
    for run in asked.runs():
        accuracies = numbers[run.init, run.activation]
        if run.seed < len(accuracies):
            crash = {"status": "error", "fingerprint": "unknown", "error": "Traceback:\n  here\nOSError: no | room\n"}
            crashed = (run.init, run.activation, run.seed) == ("xavier", "relu", 1)
            result = _result(run, accuracies[run.seed], data_label="cifar10_jpeg 100% <b>|", **crash if crashed else {})
            made.append(replace(result, init=_init_report(run)))
            _write_files(tmp_path / "runs" / run.run_id, made[-1])
    bad = {Path("/home/me/x/result.json"): "not a <whole> result"}
    return assemble(asked, asked.runs(), make_records(made, others=2, bad=bad))


def _init_report(run: Run) -> list[dict[str, Any]]:
    """Two pieces of one layer: LSUV rescales them, within the tolerance and not; the others only measure."""
    pieces = []
    for piece, (variance, tries) in enumerate(((1.01, 1), (4.0, 20))):
        report = {"layer": "conv1", "piece": piece, "variance": variance, "variance_after": None}
        rescaled = {"variance_before": variance / 2, "tries": tries, "converged": tries == 1}
        pieces.append({**report, **(rescaled if run.init == "lsuv" else dict.fromkeys(rescaled))})
    return pieces


def _write_files(folder: Path, result: Result) -> None:
    folder.mkdir(parents=True)
    accuracy = result.test_accuracy
    if accuracy is None:
        return
    rows = f"45000,115.2,0.01,1,50,1,{accuracy / 2}\n90000,230.4,0.001,0.25,90,0.5,{accuracy}\n"
    head = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
    (folder / "curve.csv").write_text(head + rows)
    wrong = np.arange(round(100 * (100 - accuracy))) * (1 + result.run.seed) % len(LABELS)
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 10
    (folder / "predictions.npz").write_bytes(Predictions(predicted, labels_sha256(LABELS)).to_npz())
    layer = {"name": "conv1", "piece": 0, "variance": 0.5, "gradient_norm": 0.01, "singular_values": [2.0, 1.0]}
    snapshots = [{"iteration": iteration, "layers": [layer]} for iteration in (0, 1000)]
    content = {"schema": 1, "run_id": result.run.run_id, "fingerprint": result.fingerprint, "moments": snapshots}
    (folder / "layers.json").write_text(json.dumps(content))
