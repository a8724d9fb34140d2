"""How large a grid may be, which is checked before it is expanded, and which of its runs settings choose."""

from collections.abc import Mapping, Sequence
from typing import Any

from replicate.errors import UsageError, unknown
from replicate.run import Run, check_settings

MAX_RUNS = 20_000  # of a grid: far more than anybody trains, and expanded in a second
MAX_COMPARISONS = 200_000  # of a run with an override or an exclusion


def check_count(problem: str, count: int, what: str = "runs", most: int = MAX_RUNS) -> None:
    """Refuse what would be expanded into too much.

    Args:
        problem: begins the sentence, such as `the grid has`.
        count: how many there would be.
        what: of what, in the plural.
        most: the maximum.

    Raises:
        UsageError: there are more. The message says how many, and the maximum.
    """
    if count > most:
        raise UsageError(f"{problem} {count:,} {what}; the maximum is {most:,}")


def matches(settings: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    """Whether settings of a run, by field, have the values that a pattern names."""
    return all(settings.get(key) == value for key, value in pattern.items())


def choose(runs: Sequence[Run], only: Mapping[str, Any]) -> tuple[Run, ...]:
    """Choose the runs with some values, given as by `--only`: field of Run -> value or list of values.

    Raises:
        UsageError: no run has one of the values.
    """
    for key, given in only.items():
        wanted = dict.fromkeys(values_of(key, given))
        there = dict.fromkeys(getattr(run, key) for run in runs)
        if missing := [value for value in wanted if value not in there]:
            raise unknown(f"{key} in --only", missing[0], map(str, there))
        runs = [run for run in runs if getattr(run, key) in wanted]
    return tuple(runs)


def values_of(key: str, given: Any) -> tuple[Any, ...]:
    """Return the values that `--set` or `--only` gives to a field; a flat list of milestones is one value.

    Raises:
        UsageError: a value is wrong, or there are too many.
    """
    if key == "milestones" and isinstance(given, int | float):
        given = [given]
    one = not given or not isinstance(given, list) or (key == "milestones" and not isinstance(given[0], list))
    values = [given] if one else given
    check_count(f"{key} has", len(values), "values")
    return tuple(check_settings({key: value})[key] for value in values)
