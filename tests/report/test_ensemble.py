"""Ensembles: their numbers by hand, and the command on records with probabilities."""

from pathlib import Path

import numpy as np
import pytest
from made_up_records import make_result

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.ensemble import Ensemble, calibration_error, find_ensembles
from replicate.store.measurements import Predictions, labels_sha256
from replicate.store.run_folder import Records, RunFolder

LABELS = np.array([0, 1, 1, 0])


def test_calibration_error_by_hand() -> None:
    # confidences 0.9 and 0.92 in one bin, right and wrong; 0.6 twice in another, both right
    probabilities = np.array([[0.9, 0.1], [0.92, 0.08], [0.4, 0.6], [0.6, 0.4]])
    assert calibration_error(probabilities, LABELS) == pytest.approx((abs(0.9 + 0.92 - 1) + abs(1.2 - 2)) / 4)
    certain = np.eye(2)[LABELS]
    assert calibration_error(certain, LABELS) == 0
    assert calibration_error(certain, 1 - LABELS) == 1


def test_accuracy_and_disagreement_by_hand() -> None:
    first = np.array([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]], dtype=np.float16)  # right: 1, 1, 0, 0
    second = np.array([[0.4, 0.6], [0.4, 0.6], [0.1, 0.9], [0.3, 0.7]], dtype=np.float16)  # right: 0, 1, 1, 0
    third = np.array([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.9, 0.1]], dtype=np.float16)  # all right
    found = Ensemble.of("a × b", [first, second, third], LABELS)
    assert (found.cell, found.members) == ("a × b", 3)
    assert found.member_accuracy == pytest.approx((50 + 50 + 100) / 3)
    assert found.accuracy == 75  # means of class 0: 0.73, 0.3, 0.3, 0.47
    assert found.disagreement == pytest.approx((50 + 50 + 50) / 3)
    mean = (first.astype(float) + second + third) / 3
    assert found.ece == pytest.approx(100 * calibration_error(mean, LABELS))
    members = [100 * calibration_error(member.astype(float), LABELS) for member in (first, second, third)]
    assert found.member_ece == pytest.approx(sum(members) / 3)


def test_ensembles_of_records(tmp_path: Path) -> None:
    experiment = Experiment(
        name="a", grid={"init": ("lsuv", "msra"), "activation": ("relu",), "seed": (0, 1, 2)}, run={"width": 0.5}
    )
    runs = experiment.runs()
    records = Records({run.run_id: make_result(run, 50.0) for run in runs}, {}, 0)
    random = np.random.default_rng(0)
    members = {}

    def save(run_id: str, probabilities: object) -> None:
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        content = Predictions(np.zeros(4, dtype=np.int64), labels_sha256(LABELS), probabilities).to_npz()
        (folder / "predictions.npz").write_bytes(content)

    def found(labels: object = LABELS) -> list[Ensemble]:
        return find_ensembles(experiment, records, tmp_path, lambda _: labels)

    for run in runs:
        if (run.init, run.seed) != ("msra", 2):
            members[run.run_id] = random.dirichlet([1, 1], 4).astype(np.float16)
            save(run.run_id, members[run.run_id] if run.init == "lsuv" else None)
    (lsuv,) = found()
    mine = [probabilities for run_id, probabilities in members.items() if run_id.startswith("lsuv")]
    assert lsuv == Ensemble.of("LSUV × ReLU", mine, LABELS)
    with pytest.raises(UsageError, match=r"lsuv-relu-s0-\w+: the predictions are for other labels"):
        found(1 - LABELS)
    for run in runs[1:]:
        (RunFolder.of(tmp_path, run).path / "predictions.npz").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"1 run of 6 in .* has probabilities, but an ensemble needs two seeds"):
        found()
    save(runs[1].run_id, np.zeros((3, 2), dtype=np.float16))
    with pytest.raises(UsageError, match="its probabilities have another type or shape"):
        found()
