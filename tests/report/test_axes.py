import pytest

from replicate.report.axes import TITLES, title
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
