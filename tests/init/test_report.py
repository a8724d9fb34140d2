"""The report is a sequence of rows, a data frame and a readable table."""

from dataclasses import asdict

import pytest
import torch
from init.zoo import Crossed, build, noise

from replicate.init import lsuv_


def report():
    torch.manual_seed(0)
    return lsuv_(Crossed(), noise(16, 4), dropout=False, generator=torch.Generator().manual_seed(0))


def test_it_is_a_sequence_of_rows() -> None:
    rows = report()
    assert len(rows) == 4
    assert [row.layer for row in rows] == ["first", "shared", "last", "unused"]
    assert rows[-1].status == "not reached"
    assert rows[:2] == (rows[0], rows[1])
    assert {"layer", "piece", "variance", "variance_before", "variance_after", "tries", "converged"} < set(
        asdict(rows[0])
    )


def test_to_frame() -> None:
    frame = report().to_frame()
    assert list(frame.columns[:2]) == ["layer", "piece"]
    assert frame["status"].tolist() == ["converged"] * 3 + ["not reached"]
    assert frame["variance"][:3].tolist() == pytest.approx([1, 1, 1], abs=0.0201)


def test_the_table_as_text() -> None:
    text = str(report())
    header = next(line for line in text.splitlines() if "layer" in line)
    columns = ["layer", "call order", "variance before", "variance after", "when all is done", "tries", "status"]
    assert [cell.strip() for cell in header.strip("┃").split("┃")] == columns
    assert "│ unused │          – │" in text
    assert "dropout off, 2 forward passes begun" in text
    assert max(map(len, text.splitlines())) <= 120


def test_pieces_are_told_apart_and_variances_not_measured_left_out() -> None:
    text = str(lsuv_(build("maxout"), [noise(16, 4, 6, 6)], dropout=False))
    assert "0 / 0" in text
    assert "0 / 2" in text
    assert "when all is done" not in text
