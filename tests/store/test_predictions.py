"""predictions.npz: what is written reads back, and anything else is refused."""

import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.store.predictions import Predictions, labels_sha256, parse_predictions
from replicate.store.result import BadRecordError
from replicate.store.run_folder import RunFolder

LABELS = np.array([3, 1, 4, 1, 5], dtype=np.int64)
WHOLE = Predictions(np.array([3, 1, 4, 2, 5]), labels_sha256(LABELS)).to_npz()


def test_the_digest_is_of_little_endian_int64() -> None:
    content = b"".join(struct.pack("<q", label) for label in LABELS.tolist())
    assert labels_sha256(LABELS) == labels_sha256(LABELS.astype(">i8")) == hashlib.sha256(content).hexdigest()


@given(st.lists(st.integers(0, 65_535)))
def test_it_reads_back_here_and_with_numpy(classes: list[int]) -> None:
    content = Predictions(np.array(classes, dtype=np.int64), "ab" * 32).to_npz()
    read = parse_predictions(content)
    assert (read.classes.tolist(), read.labels_sha256) == (classes, "ab" * 32)
    assert read.classes.dtype == (np.uint8 if max(classes, default=0) < 256 else np.uint16)
    assert np.load(io.BytesIO(content))["classes"].tolist() == classes
    assert read.to_npz() == content


def test_ten_thousand_images_take_about_ten_thousand_bytes() -> None:
    assert len(Predictions(np.zeros(10_000, dtype=np.int64), "ab" * 32).to_npz()) < 11_000


def test_right_answers() -> None:
    assert parse_predictions(WHOLE).correct(LABELS).tolist() == [True, True, True, False, True]


@pytest.mark.parametrize("labels", [LABELS[:4], LABELS[::-1], np.zeros(5, dtype=np.int64)])
def test_other_labels_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(BadRecordError, match="the predictions are for other labels"):
        parse_predictions(WHOLE).correct(labels)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=20))
def test_a_torn_or_changed_file_is_refused_or_still_one_of_predictions(place: int, change: bytes) -> None:
    for content in (WHOLE[:place], change, WHOLE[:place] + change + WHOLE[place + len(change) :]):
        try:
            read = parse_predictions(content)
        except BadRecordError as error:
            assert str(error).startswith("not a file of predictions: ")  # noqa: PT017  # other contents are read
        else:
            assert read.classes.ndim == 1


def archive(**arrays: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in arrays.items():
            made.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DIGEST = npy(np.array("ab" * 32))


@pytest.mark.parametrize(
    "content",
    [
        archive(classes=npy(np.zeros(3, np.uint8))),
        archive(classes=npy(np.zeros((3, 1), np.uint8)), labels_sha256=DIGEST),
        archive(classes=npy(np.zeros(3, np.int64)), labels_sha256=DIGEST),
        archive(classes=npy(np.zeros(3, np.uint8)), labels_sha256=npy(np.array("ab"))),
        archive(classes=npy(np.zeros(3, np.uint8)).replace(b"(3,)", b"(9,)"), labels_sha256=DIGEST),
        archive(classes=npy(np.zeros(3, np.uint8)).replace(b"|u1", b"|O1"), labels_sha256=DIGEST),
        archive(classes=npy(np.zeros(50_000_000, np.uint8)), labels_sha256=DIGEST),  # 50 kB on the disk
    ],
)
def test_foreign_archives_are_refused(content: bytes) -> None:
    with pytest.raises(BadRecordError, match="not a file of predictions"):
        parse_predictions(content)


def test_a_run_folder_names_the_file_that_is_wrong(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError):
        folder.predictions()
    (tmp_path / "predictions.npz").write_bytes(WHOLE)
    assert folder.predictions().classes.tolist() == [3, 1, 4, 2, 5]
    (tmp_path / "predictions.npz").write_bytes(WHOLE[:-30])
    with pytest.raises(BadRecordError, match=r"predictions\.npz: not a file of predictions"):
        folder.predictions()
