"""curve.csv: written whole, and read as far as it is whole."""

from pathlib import Path

import pytest

from replicate.store.curve import COLUMNS, read_points, to_csv
from replicate.store.run_folder import RunFolder

HEAD = "iteration,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy\n"
ROWS = "100,1,0.01,2,10,2,20\n200,2,0.01,2,10,2,30.5\n"


def accuracies(content: str) -> list[tuple[int, float, float]]:
    return read_points(content.encode(), ["test_accuracy"])["test_accuracy"]


def test_rows_are_written_with_ten_digits() -> None:
    assert to_csv([]) == HEAD
    row = dict(zip(COLUMNS, (391, 391 * 128 / 50_000, 0.01, 2.25, 1 / 3, float("nan"), 10.0), strict=True))
    assert to_csv([row]) == HEAD + "391,1.00096,0.01,2.25,0.3333333333,nan,10\n"


@pytest.mark.parametrize("tail", ["", "300,3,0.01", "300,3,0.01,2,10,nan,nan\n", "3x0,3,0.01,2,10,2,50\n"])
def test_a_curve_is_read_as_far_as_it_is_whole(tail: str) -> None:
    assert accuracies(HEAD + ROWS + tail) == [(100, 1.0, 20.0), (200, 2.0, 30.5)]


@pytest.mark.parametrize("content", ["", HEAD, "\x00\x1b", '"', "iteration\n1\n"])
def test_what_is_no_curve_has_no_points(content: str) -> None:
    assert accuracies(content) == []


def test_a_row_at_no_time_is_no_row() -> None:
    content = (HEAD + "inf,1,0,0,0,0,50\n100,nan,0,0,0,0,50\n200,2,0,0,0,0,60\n").encode()
    assert read_points(content, ["test_accuracy", "lr", "none"]) == {
        **{"test_accuracy": [(200, 2.0, 60.0)], "lr": [(200, 2.0, 0.0)], "none": []},
    }


def test_a_run_without_a_curve(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.curve_bytes() is None
    assert folder.points("test_accuracy") == {"test_accuracy": []}
    (tmp_path / "curve.csv").write_bytes(b"\xff")
    assert folder.points("test_accuracy") == {"test_accuracy": []}
