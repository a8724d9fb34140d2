from replicate.names import ACTIVATIONS, INITS
from replicate.report import text
from replicate.run import OPTIMIZERS


def test_display_names() -> None:
    values = ("orthonormal_msra", "tanh", 90_000, 5e-4, True, None, (40_000, 60_000), ())
    shown = ["OrthoNorm-MSRA scaled", "tanh", "90,000", "0.0005", "on", "none", "40,000 / 60,000", "none"]
    assert list(map(text.display_name, values)) == shown
    assert text.DISPLAY_NAMES.keys() <= {
        *INITS,
        *ACTIVATIONS,
        *OPTIMIZERS,
    }  # a name that no run can have is a typing error


def test_signs_plurals_footnotes_and_tracebacks() -> None:
    assert text.interval_text([-1, 2], with_sign=True) == "−1.00 to +2.00"
    assert [text.count(2000, "run"), text.count(0, "run has", "runs have")] == ["2,000 runs", "0 runs have"]
    assert [text.footnote_mark(index) for index in (0, 25, 26)] == ["a", "z", "27"]
    assert text.last_line("Traceback:\n  here\nOSError: no room\n\n") == "OSError: no room"
    assert text.last_line(None) == text.last_line(" \n") == "no traceback"
