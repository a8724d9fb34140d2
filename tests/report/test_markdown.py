from collections.abc import Callable

import pytest

from replicate.report.markdown import cell_text, letter, number_text, published_text
from replicate.report.published import Verdict
from replicate.report.statistics import Cell
from replicate.report.table import Entry


@pytest.mark.parametrize(
    ("accuracies", "counts", "text"),
    [
        ((93.7, 93.8, 94.0, 94.1), {"not_converged": 1}, "93.9 ± 0.2 (n=4, 1 n/c)"),
        ((93.7, 93.8, 94.0, 94.1), {"expected": 4}, "93.9 ± 0.2 (n=4)"),
        ((93.9,), {"expected": 1}, "93.9 (n=1)"),
        ((), {"not_converged": 3, "diverged": 2}, "n/c (5/5)"),
        ((93.9,), {"not_converged": 3, "diverged": 1}, "n/c (4/5)"),
        ((), {}, "… 0/5"),
        ((93.7, 94.1), {}, "93.9 ± 0.3 (n=2) … 2/5"),
        ((), {"diverged": 2}, "n/c (2/2) … 2/5"),
        ((), {"errors": 5}, "… 0/5 (5 errors)"),
        ((93.7, 94.1), {"errors": 1, "diverged": 2}, "93.9 ± 0.3 (n=2, 2 n/c, 1 error) … 4/5"),
        ((), {"diverged": 3, "errors": 2}, "n/c (3/3, 2 errors) … 3/5"),
    ],
)
def test_cell_text(
    make_cell: Callable[..., Cell], accuracies: tuple[float, ...], counts: dict[str, int], text: str
) -> None:
    assert cell_text(make_cell("lsuv", "relu", accuracies, **counts)) == text


def test_an_excluded_cell_is_a_dash() -> None:
    assert cell_text(None) == "–"


def test_published_text_holds_the_verdict() -> None:
    assert published_text(Entry(None, 92.4, Verdict("higher", "", 1.0, 0.5))) == "92.40 (higher)"
    assert published_text(Entry(None, 92.4, Verdict("not judged", "n = 1 < 3"))) == "92.40 (n = 1 < 3)"
    assert published_text(Entry(None, "n/c", Verdict("not comparable", "width 0.5"))) == "n/c (not comparable)"
    assert published_text(Entry(None, None, Verdict(""))) == "–"
    assert published_text(Entry(None, 92.4, Verdict("", "not run"))) == "92.40"
    assert number_text(89.5) == "89.50"


def test_footnotes_never_run_out_of_marks() -> None:
    assert [letter(index) for index in (0, 25, 26)] == ["a", "z", "27"]
