"""Accuracies from predictions and labels, next to those of the records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from workers import put, record

from replicate.experiment import Experiment
from replicate.options import Options
from replicate.store.predictions import Predictions, labels_sha256
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect
from replicate.verify.score import score, scored

LABELS = np.repeat(np.arange(10), 3)
EXPERIMENT = Experiment(
    "shapes", {"seed": (0, 1, 2)}, {"init": "lsuv", "activation": "tanh", "dataset": "folder:shapes"}
)
RUNS = EXPERIMENT.runs()


def predicted(right: int) -> np.ndarray:
    return np.where(np.arange(30) < right, LABELS, (LABELS + 1) % 10)


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    """12 of 30 right, 4 of 30 (below 15 %), and one that diverged."""
    made = []
    for run, right in zip(RUNS, (12, 4, None), strict=True):
        result = replace(record(run, Options(tmp_path)), classes=10, test_images=30)
        if right is None:
            result = replace(result, status="diverged", test_accuracy=None)
        else:
            status = "converged" if right == 12 else "not_converged"
            result = replace(result, status=status, test_accuracy=100 * right / 30)
        folder = RunFolder.of(tmp_path, run)
        put(result, folder.path)
        if right is not None:
            (folder.path / "predictions.npz").write_bytes(Predictions(predicted(right), labels_sha256(LABELS)).to_npz())
        made.append(result)
    return made


def labels_of(dataset: str) -> np.ndarray:
    assert dataset == "folder:shapes"
    return LABELS


def test_records_that_agree(tmp_path: Path, results: list[Result]) -> None:
    records = collect(tmp_path, RUNS)
    assert scored(records, tmp_path, labels_of) == (records, [])
    said: list[str] = []
    assert score(EXPERIMENT, RUNS, records, tmp_path, labels_of, said.append) == 0
    assert "n/c (2/3)" in said[0]
    assert said[1:] == [
        "predictions confirm 2 of 2 records; the table from them is the same, byte for byte",
    ]


def test_a_record_that_differs_is_named_with_both_accuracies(tmp_path: Path, results: list[Result]) -> None:
    put(replace(results[1], test_accuracy=50.0, status="converged"), RunFolder.of(tmp_path, RUNS[1]).path)
    records = collect(tmp_path, RUNS)
    computed, _ = scored(records, tmp_path, labels_of)
    assert computed.results[RUNS[1].run_id] == results[1]
    said: list[str] = []
    assert score(EXPERIMENT, RUNS, records, tmp_path, labels_of, said.append) == 1
    assert said[1:] == [
        f"{RUNS[1].run_id}: its record says 50.0 % (converged), its predictions 13.333333333333334 % (not converged)",
        "predictions do not confirm 1 of 2 records",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, " has no predictions"),
        (b"torn", "predictions.npz: not a file of predictions"),
        (Predictions(predicted(12), labels_sha256(LABELS[::-1])).to_npz(), ": the predictions are for other labels"),
    ],
)
@pytest.mark.usefixtures("results")
def test_a_record_without_usable_predictions_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = RunFolder.of(tmp_path, RUNS[0]).path / "predictions.npz"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    records = collect(tmp_path, RUNS)
    computed, (difference,) = scored(records, tmp_path, labels_of)
    assert computed == records
    assert difference.startswith(RUNS[0].run_id)
    assert message in difference
