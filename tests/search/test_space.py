"""Ranges and choices: their points, grids and narrower parts."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import UsageError
from replicate.search.space import Range, check_space, grid_points, narrow, readable

RATE = Range(0.001, 1.0, log=True)
SPACE = {"lr": RATE, "momentum": Range(0.5, 0.9), "init": ("lsuv", "msra")}


def test_the_place_of_a_value_by_hand() -> None:
    assert RATE.at(1 / 3) == pytest.approx(0.01)
    assert RATE.share(0.1) == pytest.approx(2 / 3)
    assert SPACE["momentum"].at(0.25) == pytest.approx(0.6)
    assert SPACE["momentum"].share(0.8) == pytest.approx(0.75)


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e6), st.booleans(), st.floats(0, 1))
def test_share_inverts_at(low: float, factor: float, log: bool, share: float) -> None:
    values = Range(low, low * factor, log)
    assert values.share(values.at(share)) == pytest.approx(share, abs=1e-6)


def test_values_are_readable_and_within_their_range() -> None:
    assert readable("lr", 0.0123456, RATE) == 0.0123
    assert readable("lr", 0.00123456, Range(0.001234, 1.0)) == 0.001234
    assert readable("batch_size", 33.3, Range(32, 64)) == 33
    assert readable("batch_size", 32.6, Range(32.7, 34)) == 33
    assert isinstance(readable("pad", 3.9, Range(0, 8)), int)


def test_a_grid_has_equally_many_values_of_each_range() -> None:
    assert [point["lr"] for point in grid_points({"lr": RATE}, 4)] == [0.001, 0.01, 0.1, 1.0]
    points = grid_points(SPACE, 19)  # 2 × 3 × 3; 2 × 4 × 4 would be too many
    assert len(points) == len({tuple(point.items()) for point in points}) == 18
    assert {point["momentum"] for point in points} == {0.5, 0.7, 0.9}
    assert {point["lr"] for point in points} == {0.001, 0.0316, 1.0}
    assert len(grid_points({"pad": Range(0, 2)}, 10)) == 3  # whole numbers
    assert grid_points({"init": ("lsuv", "msra")}, 100) == [{"init": "lsuv"}, {"init": "msra"}]
    with pytest.raises(UsageError, match="the smallest grid over the space has 8 points; give at least that many"):
        grid_points(SPACE, 7)


def test_a_space_is_narrowed_around_its_best_points() -> None:
    best = [{"lr": 0.01, "momentum": 0.9, "init": "msra"}, {"lr": 0.1, "momentum": 0.7, "init": "msra"}]
    found = narrow(SPACE, best)
    assert found["init"] == ("msra",)
    # a tenth of three decades on both sides, rounded outwards to three digits
    assert (found["lr"].low, found["lr"].high) == (0.00501, 0.2)
    assert (found["momentum"].low, found["momentum"].high) == (0.66, 0.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.booleans())
def test_a_narrower_range_holds_the_best_values(shares: list[float], log: bool) -> None:
    values = Range(0.01, 0.9, log)
    best = [readable("lr", values.at(share), values) for share in shares]
    narrower = values.around(best)
    assert values.low <= narrower.low < narrower.high <= values.high
    assert all(narrower.low <= value <= narrower.high for value in best)
    assert math.isclose(readable("lr", best[0], narrower), best[0])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"ler": RATE}, "unknown key in space 'ler' (did you mean 'lr'?)"),
        ({"seed": (0, 1)}, "unknown key in space 'seed'"),
        ({"lr": Range(0.1, 0.1)}, "space.lr: low = 0.1 must be less than high = 0.1"),
        ({"momentum": Range(0, 0.9, log=True)}, "space.momentum: low = 0 has no logarithm"),
        ({"lr": Range(0.1, 1e4)}, "lr = 10000.0 is out of range; give at most 1000"),
        ({"mirror": Range(0, 1)}, "mirror must be true or false"),
        ({"pad": Range(0.5, 3)}, "pad must be a whole number"),
        ({"init": ("lsuv", "msar")}, "unknown init 'msar' (did you mean 'msra'?)"),
        ({"pad": (4, 4)}, "space.pad is empty or names a value twice"),
        ({"lr": 0.1}, "space.lr must be a list of values or {low: …, high: …, log: …}, not 0.1"),
        ({"lr": {"low": "x", "high": 1}}, "space.lr: low must be a number, not 'x'"),
        (
            {"lr": {"lw": 1, "high": 2}},
            "space.lr: unknown key in the range 'lw' (did you mean 'low'?)",
        ),
        ({"lr": {"low": 0.1}}, "space.lr: high is missing"),
        ({"lr": {"low": 0.1, "high": 1, "log": 1}}, "space.lr: log must be true or false, not 1"),
        ({"pad": ()}, "space.pad is empty or names a value twice"),
    ],
)
def test_wrong_spaces(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_space(space)
    assert message in str(error.value)


def test_choices_get_their_declared_types() -> None:
    assert check_space({"batch_size": (1e2, 200), "lr": RATE}) == {"batch_size": (100, 200), "lr": RATE}
