"""The settings that a search varies: ranges and choices, with the points of a grid and narrower ranges."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from replicate.errors import UsageError, explain, unknown
from replicate.run import TYPES, check_settings
from replicate.yamlfile import is_whole

FIXED = ("seed", "dataset", "validation", "iterations", "milestones")  # a search does not choose these
MARGIN = 0.1  # of a range's width, which the narrower range keeps on both sides: our choice
DIGITS = 3  # of a value, so that people can read and type it


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Range:
    """The values from `low` to `high`, both included; `log`: their logarithms are drawn evenly."""

    low: Annotated[float, Strict()]
    high: Annotated[float, Strict()]
    log: Annotated[bool, Strict()] = False

    def at(self, share: float) -> float:
        """The value at this share of the way from `low`, 0, to `high`, 1."""
        if self.log:
            value = self.low * math.exp(share * math.log(self.high / self.low))
        else:
            value = self.low + (self.high - self.low) * share
        return min(max(value, self.low), self.high)

    def share(self, value: float) -> float:
        """Where a value lies on the way from `low` to `high`; the inverse of `at`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def around(self, values: Sequence[float]) -> "Range":
        """The part of the range that some of its values span, with a margin; its ends have few digits."""
        shares = [self.share(value) for value in values]
        low, high = self.at(max(0.0, min(shares) - MARGIN)), self.at(min(1.0, max(shares) + MARGIN))
        return Range(max(self.low, _rounded(low, up=False)), min(self.high, _rounded(high, up=True)), self.log)


Choices = tuple[Any, ...]
Space = Mapping[str, Range | Choices]  # field of Run -> its values
_RANGE = TypeAdapter(Range)


def check_space(given: Mapping[str, Any]) -> Space:
    """Check the names and values of a space.

    Args:
        given: field of Run -> a Range, or the mapping that makes one, or a list of values.

    Returns:
        The space, its choices in their declared types.

    Raises:
        UsageError: an unknown field or one that a search does not choose, or a value that the field cannot have.
    """
    checked: dict[str, Range | Choices] = {}
    for name, values in given.items():
        if name not in TYPES or name in FIXED:
            raise unknown("key in space", name, [field for field in TYPES if field not in FIXED])
        if isinstance(values, list | tuple):
            found = tuple(check_settings({name: value})[name] for value in values)
            if len(set(found)) < max(1, len(found)):
                raise UsageError(f"space.{name} is empty or names a value twice")
            checked[name] = found
        elif isinstance(values, dict | Range):
            checked[name] = _check_range(name, values)
        else:
            raise UsageError(f"space.{name} must be a list of values or {{low: …, high: …, log: …}}, not {values!r}")
    return checked


def _check_range(name: str, given: Any) -> Range:
    try:
        values = _RANGE.validate_python(given)
    except ValidationError as error:
        raise UsageError(f"space.{name}: {explain(error, {'': ('low', 'high', 'log')}, 'the range')}") from None
    for end in (values.low, values.high):
        check_settings({name: end})
    if values.low >= values.high:
        raise UsageError(f"space.{name}: low = {values.low:g} must be less than high = {values.high:g}")
    if values.log and values.low <= 0:
        raise UsageError(f"space.{name}: low = {values.low:g} has no logarithm; give more, or leave out log")
    return values


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
        raise UsageError(f"the smallest grid over the space has {least:,} points; give at least that many trials")
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
    if is_whole(name):
        return min(max(round(value), math.ceil(within.low)), math.floor(within.high))
    return min(max(float(f"{value:.{DIGITS}g}"), within.low), within.high)


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


def _rounded(value: float, up: bool) -> float:
    """Round up or down to a few digits."""
    if not value:
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - DIGITS + 1)
    steps = round(value / unit, 6)  # a value of few digits stays as it is
    return float(f"{(math.ceil if up else math.floor)(steps) * unit:.{DIGITS}g}")
