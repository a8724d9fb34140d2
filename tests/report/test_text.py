import pytest

from replicate.report.text import (
    DISPLAY_NAMES,
    count,
    display_name,
    footnote_mark,
    interval_text,
    last_line,
    published_number,
    signed,
)
from replicate.run import ACTIVATIONS, INITS


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("orthonormal_msra", "OrthoNorm-MSRA scaled"),
        ("vlrelu", "VLReLU"),
        ("tanh", "tanh"),
        (90_000, "90,000"),
        (0.25, "0.25"),
        (5e-4, "0.0005"),
        (True, "on"),
        (None, "none"),
        ((40_000, 60_000), "40,000 / 60,000"),
        ((), "none"),
    ],
)
def test_display_name(value: object, text: str) -> None:
    assert display_name(value) == text


def test_every_display_name_belongs_to_a_name_that_a_run_can_have() -> None:
    assert DISPLAY_NAMES.keys() <= {*INITS, *ACTIVATIONS}


def test_numbers() -> None:
    assert (signed(-1.005), signed(0.25), signed(None)) == ("−1.00", "+0.25", "")
    assert (published_number(89.5), published_number("n/c"), published_number(None)) == ("89.50", "n/c", "–")
    assert (interval_text((1, 2)), interval_text([-1, 2], with_sign=True)) == ("1.00 to 2.00", "−1.00 to +2.00")
    assert interval_text(None) == ""


def test_counts() -> None:
    assert [count(1, "run"), count(2000, "run"), count(0, "run has", "runs have")] == [
        "1 run",
        "2,000 runs",
        "0 runs have",
    ]


def test_footnotes_never_run_out_of_marks() -> None:
    assert [footnote_mark(index) for index in (0, 25, 26)] == ["a", "z", "27"]


def test_the_last_line_of_a_traceback_names_the_exception() -> None:
    assert last_line("Traceback:\n  here\nOSError: no room\n\n") == "OSError: no room"
    assert last_line(None) == last_line(" \n") == "no traceback"
