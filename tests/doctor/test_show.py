"""The findings on a terminal, and the verdict."""

from io import StringIO

from rich.console import Console

from replicate.doctor.finding import Finding
from replicate.doctor.show import show, verdict

WORKS = Finding("training", "cpu: trains (32-true)", good=True)
BROKEN = Finding("training", "gpu 0: does not train: boom", good=False, mend="mend [it]\x1b")


def test_topics_marks_and_advice() -> None:
    file = StringIO()
    findings = [Finding("data", "[bold] there" + "x" * 100), BROKEN, WORKS]
    assert show(iter(findings), Console(file=file, width=60)) == findings
    assert file.getvalue().splitlines() == [
        "data",
        "  · [bold] there" + "x" * 100,
        "training",
        "  ✗ gpu 0: does not train: boom",
        "    → mend [it]\\x1b",
        "  ✓ cpu: trains (32-true)",
    ]


def test_one_device_that_trains_is_enough() -> None:
    assert verdict([WORKS]) == (0, "ready to train on cpu")
    assert verdict([BROKEN, WORKS]) == (0, "ready to train on cpu; not on gpu 0")
    for nothing in ([BROKEN], [Finding("torch", "torch cannot be used", good=False)]):
        assert verdict(nothing) == (1, "nothing here can train; see ✗ above")
