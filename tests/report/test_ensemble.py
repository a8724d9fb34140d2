"""Ensembles: their numbers by hand, and the command on records with probabilities."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_records import make_result
from workers import put

from replicate.cli import main
from replicate.data import synthetic
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


def predictions(probabilities: object, classes: object = None) -> Predictions:
    found = np.array(probabilities, dtype=np.float16)
    return Predictions(found.argmax(1) if classes is None else np.array(classes), labels_sha256(LABELS), found)


def test_accuracy_and_disagreement_by_hand() -> None:
    first = predictions([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])  # right: 1, 1, 0, 0
    # right: 0, 1, 1, 1; the last one by less than float16 can hold
    second = predictions([[0.4, 0.6], [0.4, 0.6], [0.1, 0.9], [0.5, 0.5]], [1, 1, 1, 0])
    third = predictions([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.9, 0.1]])  # all right
    members = [first, second, third]
    found = Ensemble.of("a × b", members, LABELS)
    assert (found.cell, found.members) == ("a × b", 3)
    assert found.member_accuracy == pytest.approx((50 + 75 + 100) / 3)
    assert found.accuracy == 100  # means of class 0: 0.73, 0.3, 0.3, 0.53
    assert found.disagreement == pytest.approx((75 + 50 + 25) / 3)
    exact = [member.probabilities.astype(float) for member in members]
    assert found.ece == pytest.approx(100 * calibration_error(sum(exact) / 3, LABELS))
    assert found.member_ece == pytest.approx(sum(100 * calibration_error(one, LABELS) for one in exact) / 3)


def test_ensembles_of_records(tmp_path: Path) -> None:
    experiment = Experiment(
        name="a", grid={"init": ("lsuv", "msra"), "activation": ("relu",), "seed": (0, 1, 2)}, run={"width": 0.5}
    )
    runs = experiment.runs()
    records = Records({run.run_id: make_result(run, 50.0, classes=2) for run in runs}, {}, 0)
    records.results[runs[4].run_id] = make_result(runs[4], 10.0, status="not_converged", classes=2)
    assert (runs[4].init, runs[4].seed) == ("lsuv", 2)
    random = np.random.default_rng(0)

    def save(run_id: str, saved: Predictions) -> Predictions:
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "predictions.npz").write_bytes(saved.to_npz())
        return saved

    def found(labels: object = LABELS) -> list[Ensemble]:
        return find_ensembles(experiment, runs, records, tmp_path, lambda *_: labels)

    lsuv = [save(run.run_id, predictions(random.dirichlet([1, 1], 4))) for run in runs if run.init == "lsuv"]
    for run in runs:
        if run.init == "msra" and run.seed < 2:
            save(run.run_id, replace(lsuv[0], probabilities=None))
    (ensemble,) = found()
    assert ensemble == Ensemble.of("LSUV × ReLU", lsuv[:2], LABELS)  # the third has not converged
    with pytest.raises(UsageError, match=r"lsuv-relu-s0-\w+: the predictions are for other labels"):
        found(1 - LABELS)
    for wrong in ([[0.5, 0.2, 0.3]] * 4, [[0.5, 1.5]] * 4, [[0.5, np.nan]] * 4, [[0.5, 0.5]] * 3, [[]] * 4):
        save(runs[0].run_id, predictions(wrong, [0, 0, 0, 0]))
        with pytest.raises(UsageError, match=r"its probabilities (are not|have another)"):
            found()
    (tmp_path / "runs" / runs[0].run_id / "predictions.npz").unlink()
    with pytest.raises(UsageError, match=r"no cell has two converged runs with probabilities \(1 run in "):
        found()


def test_too_many_probabilities_are_left_out() -> None:
    labels = np.zeros(10_000, dtype=np.int64)
    content = Predictions(labels, labels_sha256(labels), np.zeros((10_000, 1000), dtype=np.float16)).to_npz()
    assert len(content) < 20_000


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text("grid: {init: [lsuv], activation: [relu], seed: [0, 1]}\nrun: {dataset: synthetic}\n")
    labels = synthetic.load("synthetic", tmp_path).test_labels
    for run in Experiment.load(file).runs():
        folder = RunFolder.of(out, run).path
        put(make_result(run, 50.0), folder)
        probabilities = np.eye(10, dtype=np.float16)[labels if run.seed else labels[::-1]]
        saved = Predictions(probabilities.argmax(1), labels_sha256(labels), probabilities)
        (folder / "predictions.npz").write_bytes(saved.to_npz())
    assert main(["ensemble", str(file), "--out", str(out)]) == 0
    assert "LSUV × ReLU" in capsys.readouterr().out
    with (out / "ensemble.csv").open() as written:
        (row,) = csv.DictReader(written)
    same = 100 * float((labels == labels[::-1]).mean())
    assert (row["cell"], row["members"], float(row["member_accuracy"])) == ("LSUV × ReLU", "2", (100 + same) / 2)
    assert float(row["disagreement"]) == 100 - same
