"""The report is a sequence of rows, a data frame and a readable table."""

import pytest
from compare_lsuv_cases import CASES
from init.zoo import generator, noise

from replicate.init import LayerReport, lsuv_


def test_a_report_is_a_sequence_a_data_frame_and_a_table() -> None:
    model = CASES["a layer that is never called"].make()
    report = lsuv_(model, noise(64, 64), dropout=False, generator=generator())
    names = ["a", "b", "never"]
    assert [(row.layer, row.order) for row in report] == list(zip(names, [1, 2, None], strict=True))
    assert report[2:] == (LayerReport("never", 0, status="not reached"),)

    frame = report.frame()
    assert list(frame.columns[:2]) == ["layer", "piece"]
    assert frame["status"].tolist() == ["converged"] * 2 + ["not reached"]
    assert frame["variance"][:2].tolist() == pytest.approx([1, 1], abs=0.0201)

    header, *rows, note = str(report).splitlines()
    variances = ["variance_before", "variance_after", "variance"]
    assert header.split() == ["layer", "piece", "order", *variances, "scale", "tries", "status"]
    assert [row.split()[0] for row in rows] == names
    assert rows[2].split() == ["never", "0", *["–"] * 6, "not", "reached"]
    assert note == "batches at the end: 1, dropout: off, forward passes begun: 2"
