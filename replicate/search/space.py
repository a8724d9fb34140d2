"""The settings that a search varies: ranges and choices, with the points of a grid and narrower ranges."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Discriminator, Field, Strict, Tag
from pydantic.dataclasses import dataclass

from replicate.errors import UsageError, unknown
from replicate.run import TYPES, check_settings

FIXED = ("seed", "dataset", "validation", "iterations", "milestones")  # a search does not choose these
MARGIN = 0.1  # of a range's width, which the narrower range keeps on both sides: our choice
DIGITS = 3  # of a value, so that people can read and type it


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Range:
    """The values from `low` to `high`, both included."""

    low: Annotated[float, Strict(), Field(description="smallest value")]
    high: Annotated[float, Strict(), Field(description="largest value")]
    log: Annotated[bool, Strict(), Field(description="draw the logarithm of the value evenly")] = False

    def at(self, share: float) -> float:
        """The value at this share of the way from `low`, 0, to `high`, 1."""
        if self.log:
            return self.low * math.exp(share * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * share

    def share(self, value: float) -> float:
        """Where a value lies on the way from `low` to `high`; the inverse of `at`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def around(self, values: Sequence[float]) -> "Range":
        """The part of the range that some of its values span, with a margin."""
        shares = [self.share(value) for value in values]
        low, high = self.at(max(0.0, min(shares) - MARGIN)), self.at(min(1.0, max(shares) + MARGIN))
        return Range(max(self.low, low), min(self.high, high), self.log)


Choices = tuple[Any, ...]
Values = Annotated[
    Annotated[Range, Tag("range")] | Annotated[Choices, Tag("list")],
    Discriminator(lambda given: "range" if isinstance(given, dict | Range) else "list"),
]
Space = Mapping[str, Range | Choices]  # field of Run -> its values


def is_whole(name: str) -> bool:
    """Whether a field of Run is a whole number."""
    return get_args(TYPES[name])[:1] == (int,)


def check_space(space: Space) -> Space:
    """Check the names and values of a space.

    Returns:
        The space, its choices in their declared types.

    Raises:
        UsageError: an unknown field or one that a search does not choose, or a value that the field cannot have.
    """
    checked: dict[str, Range | Choices] = {}
    for name, values in space.items():
        if name not in TYPES or name in FIXED:
            raise unknown("key in space", name, [field for field in TYPES if field not in FIXED])
        ends = (values.low, values.high) if isinstance(values, Range) else values
        found = tuple(check_settings({name: value})[name] for value in ends)
        if isinstance(values, Range):
            if values.low >= values.high:
                raise UsageError(f"space.{name}: low = {values.low:g} must be less than high = {values.high:g}")
            if values.log and values.low <= 0:
                raise UsageError(f"space.{name}: low = {values.low:g} has no logarithm; give more, or leave out log")
        elif len(set(found)) < max(1, len(found)):
            raise UsageError(f"space.{name} is empty or holds a value twice")
        checked[name] = values if isinstance(values, Range) else found
    return checked


def grid_points(space: Space, most: int) -> list[dict[str, Any]]:
    """Lay a grid over a space: all choices, and of every range equally many values at equal distances.

    Args:
        space: to cover.
        most: largest number of points.

    Returns:
        The points, by field. A range of whole numbers may have fewer values.

    Raises:
        UsageError: two values of each range are already too many.
    """
    ranges = sum(isinstance(values, Range) for values in space.values())
    choices = math.prod(len(values) for values in space.values() if not isinstance(values, Range))
    if (least := choices * 2**ranges) > most:
        raise UsageError(f"the smallest grid over the space has {least:,} points; give at least so many trials")
    each = 2
    while ranges and choices * (each + 1) ** ranges <= most:
        each += 1
    points: list[dict[str, Any]] = [{}]
    for name, values in space.items():
        if isinstance(values, Range):
            steps = (values.at(step / (each - 1)) for step in range(each))
            axis = tuple(dict.fromkeys(readable(name, value, values) for value in steps))
        else:
            axis = values
        points = [{**point, name: value} for point in points for value in axis]
    return points


def readable(name: str, value: float, within: Range) -> float:
    """Round a value to a few digits, or to a whole number if the field is one, within the range."""
    rounded = round(value) if is_whole(name) else float(f"{value:.{DIGITS}g}")
    low, high = (math.ceil(within.low), math.floor(within.high)) if is_whole(name) else (within.low, within.high)
    return min(max(rounded, low), high)


def narrow(space: Space, best: Sequence[Mapping[str, Any]]) -> Space:
    """Return the part of a space in which the best points are: ranges around them, and the choices that they have."""
    narrower: dict[str, Range | Choices] = {}
    for name, values in space.items():
        there = [point[name] for point in best]
        if isinstance(values, Range):
            narrower[name] = values.around(there)
        else:
            narrower[name] = tuple(value for value in values if value in there)
    return narrower
