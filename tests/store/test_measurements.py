"""Curves are read as far as they are whole; layers and predictions as they were written, or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.store import measurements
from replicate.store.measurements import Layer, Predictions, Snapshot, read_curve, read_layers, read_predictions
from replicate.store.result import BadRecordError
from replicate.store.run_folder import RunFolder

HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
ROWS = "100,1,0.01,2,10,2,20\n200,2,0.01,2,10,2,30.5\n"
FIRST = Snapshot(0, (Layer("conv1", 0, None, 0.5, (3.0, None, 1.0)), Layer("conv1", 1, 1.0, None, ())))
LAST = Snapshot(90_000, (Layer("conv1", 0, 2.0, 0.25, (2.0, 1.0)),))
LABELS = np.array([3, 1, 4, 1, 5], dtype=np.int64)
WHOLE = Predictions(np.array([3, 1, 4, 2, 5]), measurements.labels_sha256(LABELS)).to_npz()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One folder for all tests and examples; each writes the file that it reads."""
    return RunFolder(tmp_path_factory.mktemp("a-run"))


def test_rows_are_written_with_ten_digits() -> None:
    assert measurements.curve_csv([]) == HEAD
    row = dict(zip(measurements.COLUMNS, (391, 391 * 128 / 50_000, 0.01, 2.25, 1 / 3, float("nan"), 10.0), strict=True))
    assert measurements.curve_csv([row]) == HEAD + "391,1.00096,0.01,2.25,0.3333333333,nan,10\n"


WRONG = [f"{iteration},3,0.01,2,10,2,50\n" for iteration in ("3x0", "0.5", "-1", "1e308", "inf", "9" * 400)]
TORN = ["", "300,3,0.01", "300,3,0.01,2,10,nan,nan\n", "300,3,0.01,2,10,2,1e300\n"]


@pytest.mark.parametrize("tail", [*TORN, *WRONG])
def test_a_curve_is_read_as_far_as_it_is_whole(folder: RunFolder, tail: str) -> None:
    (folder.path / "curve.csv").write_text(HEAD + ROWS + tail)
    assert read_curve(folder, ["test_accuracy", "none"]) == {"test_accuracy": {100: 20.0, 200: 30.5}, "none": {}}


def test_a_curve_ends_after_so_many_rows(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "MAX_ROWS", 1)
    (folder.path / "curve.csv").write_text(HEAD + ROWS)
    assert read_curve(folder, ["test_accuracy"]) == {"test_accuracy": {100: 20.0}}


@pytest.mark.parametrize("content", [None, HEAD.encode(), b"\x00\x1b", b'"', b"\xff"])
def test_what_is_no_curve_has_no_points(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "curve.csv").write_bytes(content)
    assert RunFolder(tmp_path).curve_bytes() == content
    assert read_curve(RunFolder(tmp_path), ["test_accuracy"]) == {"test_accuracy": {}}


def test_layers_read_back(folder: RunFolder) -> None:
    text = measurements.layers_json(folder.run_id, "f" * 64, (FIRST, LAST))
    (folder.path / "layers.json").write_text(text)
    assert read_layers(folder, "f" * 64) == (FIRST, LAST)
    entry = {"name": "conv1", "piece": 0, "variance": 2.0, "gradient_norm": 0.25, "singular_values": [2.0, 1.0]}
    assert json.loads(text)["moments"][1]["layers"] == [{**entry, "saturated": None, "dead": None}]
    (folder.path / "layers.json").write_text(text.replace(',"saturated":null,"dead":null', ""))  # as earlier versions
    assert read_layers(folder, "f" * 64) == (FIRST, LAST)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"schema":1', '"schema":2', "schema is 2, not 1"),
        ('"a-run0"', '"x"', "run_id is 'x', not 'a-run0' as in the record"),
        ('"f"', '"ab"', "fingerprint is 'ab'"),
        ('"moments":[', '"moments":[{"iteration":90000,"layers":[]},', "do not ascend"),
        ('"variance":2.0', '"variance":-1', "variance = -1 is out of range"),
        ('"variance":2.0', '"variance":1e300', "variance = 1e[+]300 is out of range"),
        ('"variance":2.0', f'"variance":1{"0" * 400}', "variance must be a finite number"),
        ('"piece":0', '"piece":-1', "piece = -1 is out of range"),
        ('"piece":0', f'"piece":1{"0" * 400}', "piece = 1000.*000 is out of range"),
        ('"iteration":90000', '"iteration":1e308', "iteration"),
        ('"conv1"', '"\\u001b[2J"', "name is .*: it is not a line of text"),
        ('"conv1"', f'"{"x" * 1001}"', "name is .*: it is not a line of text"),
        ("[2.0,1.0]", f"[{'1,' * 1000}1]", "singular_values has too many values; give at most 1000"),
        ("}]}]}", "", "layers.json: the file is "),  # cut off
    ],
)
def test_other_layers_are_refused(folder: RunFolder, old: str, new: str, message: str) -> None:
    whole = measurements.layers_json(folder.run_id, "f", (LAST,))
    (folder.path / "layers.json").write_text(whole.replace(old, new))
    with pytest.raises(BadRecordError, match=message):
        read_layers(folder, "f")


@given(st.lists(st.integers(0, 65_535)))
def test_predictions_read_back(folder: RunFolder, classes: list[int]) -> None:
    content = Predictions(np.array(classes, dtype=np.int64), "ab" * 32).to_npz()
    (folder.path / "predictions.npz").write_bytes(content)
    read = read_predictions(folder)
    assert (read.classes.tolist(), read.labels_sha256) == (classes, "ab" * 32)
    assert read.classes.dtype == (np.uint8 if max(classes, default=0) < 256 else np.uint16)
    assert read.to_npz() == content


def test_correct_answers_and_other_labels(folder: RunFolder) -> None:
    (folder.path / "predictions.npz").write_bytes(WHOLE)
    read = read_predictions(folder)
    assert read.labels_sha256 == "b2df6fbc118c9722ad2f03e994950e62407eaa2bdd8962a5b6c628869fb520f5"
    assert read.correct(LABELS).tolist() == [True, True, True, False, True]
    for labels in (LABELS[:4], LABELS[::-1]):
        with pytest.raises(BadRecordError, match="the predictions are for other labels"):
            read.correct(labels)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=20))
def test_torn_or_changed_predictions_are_refused_or_read(folder: RunFolder, place: int, change: bytes) -> None:
    for content in (WHOLE[:place], WHOLE[:place] + change + WHOLE[place + len(change) :]):
        (folder.path / "predictions.npz").write_bytes(content)
        try:
            assert read_predictions(folder).classes.ndim == 1
        except BadRecordError as error:
            assert "predictions.npz: not a file of predictions: " in str(error)  # noqa: PT017  # others are read


@pytest.mark.parametrize(
    "arrays",
    [
        {"classes": np.zeros((3, 1), np.uint8)},
        {"classes": np.zeros(3, np.int64)},
        {"classes": np.zeros(3, np.uint8), "labels_sha256": np.array("ab")},
        {"classes": np.zeros(3, np.uint8), "labels_sha256": np.array("\x1b" * 64)},
        {"classes": np.zeros(3, np.uint8), "labels_sha256": np.frombuffer(b"\xff" * 256, "<U64").reshape(())},
        {"classes": np.array(1, np.uint8)},
        {"classes": np.array([{}, print], dtype=object)},
        {"classes": np.zeros(50_000_000, np.uint8)},  # 50 kB on the disk
    ],
)
def test_other_archives_are_refused(folder: RunFolder, arrays: dict[str, np.ndarray]) -> None:
    np.savez_compressed(folder.path / "predictions.npz", **{"labels_sha256": np.array("ab" * 32), **arrays})
    with pytest.raises(BadRecordError, match="not a file of predictions"):
        read_predictions(folder)
