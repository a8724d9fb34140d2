"""The report is a sequence of rows, a data frame and a readable table."""

import pytest
from init.zoo import crossed, generator, noise

from replicate.init import LayerReport, lsuv_


def test_a_report_is_a_sequence_a_data_frame_and_a_table() -> None:
    report = lsuv_(crossed(), noise(16, 4), dropout=False, generator=generator())
    names = ["first", "shared", "last", "unused"]
    assert [(row.layer, row.order) for row in report] == list(zip(names, [1, 2, 3, None], strict=True))
    assert report[3:] == (LayerReport("unused", 0, status="not reached"),)

    frame = report.to_frame()
    assert list(frame.columns[:2]) == ["layer", "piece"]
    assert frame["status"].tolist() == ["converged"] * 3 + ["not reached"]
    assert frame["variance"][:3].tolist() == pytest.approx([1, 1, 1], abs=0.0201)

    header, *rows, note = str(report).splitlines()
    variances = ["variance_before", "variance_after", "variance"]
    assert header.split() == ["layer", "piece", "order", *variances, "tries", "status"]
    assert [row.split()[0] for row in rows] == names
    assert rows[3].split() == ["unused", "0", *["–"] * 5, "not", "reached"]
    assert note == "batches at the end: 1, dropout: off, forward passes begun: 2"
