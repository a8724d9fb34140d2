import pytest

from replicate.errors import UsageError
from replicate.report.axes import TITLES, checked, title
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
def test_title(value: object, text: str) -> None:
    assert title(value) == text


def test_every_title_belongs_to_a_name_that_a_run_can_have() -> None:
    assert TITLES.keys() <= {*INITS, *ACTIVATIONS}


def test_values_from_files_become_those_of_runs() -> None:
    assert checked("width", "0.25") == 0.25
    assert checked("init", "lsuv") == "lsuv"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("init", "lsvu", "unknown init 'lsvu' .did you mean 'lsuv'"),
        ("activaton", "relu", "unknown field of a run 'activaton'"),
        ("width", "wide", "width must be a number"),
    ],
)
def test_wrong_values_name_the_culprit(field: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(field, value)
