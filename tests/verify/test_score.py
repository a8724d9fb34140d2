"""Accuracies from predictions and labels, next to those of the records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from workers import ended, put

from replicate.experiment import Experiment
from replicate.store.measurements import Predictions, labels_sha256
from replicate.store.run_folder import RunFolder, collect
from replicate.verify.score import score

LABELS = np.repeat(np.arange(10), 3)
EXPERIMENT = Experiment("x", {"seed": (0, 1, 2)}, {"init": "lsuv", "activation": "tanh", "dataset": "folder:shapes"})
RUNS = EXPERIMENT.runs()
Output = pytest.CaptureFixture[str]


def npz(right: int, labels: np.ndarray = LABELS) -> bytes:
    """Predictions with so many right ones, for these labels."""
    predicted = np.where(np.arange(30) < right, LABELS, (LABELS + 1) % 10)
    return Predictions(predicted, labels_sha256(labels)).to_npz()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """12 of 30 right, 4 of 30 (below 15 %), and one run that diverged; the folder is that of the second run."""
    for run, right, status in zip(RUNS, (12, 4, None), ("converged", "not_converged", "diverged"), strict=True):
        folder = RunFolder.of(tmp_path, run)
        put(replace(ended(run, status, 100 * (right or 0) / 30), classes=10), folder.path)
        if right is not None:
            (folder.path / "predictions.npz").write_bytes(npz(right))
    return RunFolder.of(tmp_path, RUNS[1])


@pytest.mark.parametrize(
    ("content", "cell", "message"),
    [
        (b"torn", "n/c (2/3)", "predictions.npz: not a file of predictions"),
        (npz(4, LABELS[::-1]), "n/c (2/3)", ": the predictions are for other labels"),
        (npz(12), "40.0 ± 0.0", "record says 13.333333333333334 % (not converged), its predictions 40.0 %"),
        (None, "n/c (2/3)", " has no predictions"),
    ],
)
def test_a_record_is_confirmed_by_its_predictions_or_named(
    tmp_path: Path, folder: RunFolder, capsys: Output, content: bytes | None, cell: str, message: str
) -> None:
    def scored() -> tuple[int, str]:
        code = score(EXPERIMENT, RUNS, collect(tmp_path, RUNS), tmp_path, lambda *_: LABELS)
        return code, capsys.readouterr().out.strip()

    code, text = scored()
    assert (code, "n/c (2/3)" in text) == (0, True)
    assert text.endswith("\npredictions confirm 2 of 2 records; the table from them is the same, byte for byte")
    path = folder.path / "predictions.npz"
    path.write_bytes(content) if content else path.unlink()
    code, text = scored()
    assert (code, cell in text) == (1, True)  # the table is that of the predictions
    difference, last = text.splitlines()[-2:]
    assert (message in difference, last) == (True, "predictions do not confirm 1 of 2 records")
