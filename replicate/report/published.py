"""Published numbers: read from CSV, checked for whether our numbers compare with them, and judged."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from replicate.errors import UsageError
from replicate.report.cell import Cell
from replicate.report.statistics import LEVEL, Spread, prediction_half_width
from replicate.report.text import count, display_name
from replicate.run import Run, check_settings
from replicate.store.files import read_bytes
from replicate.yamlfile import MAX_BYTES, parse

Published = float | Literal["n/c"]  # test accuracy in %, or failed to converge; a dash is no entry at all
MIN_RUNS = 3  # below, a cell is not judged
JUDGED = ("consistent", "higher", "lower")


# Settings of the released code that depart from the paper's protocol, by init and activation.
RELEASED: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("xavier", "maxout"): {"momentum": 0.5},
    ("msra", "maxout"): {"milestones": (80_000,), "lr": 0.001, "momentum": 0.5, "clip_norm": 50.0},
}
MADE_TO_TRAIN = (("msra", "maxout"),)  # the paper has n/c, so its number was not made by the released settings
# A cell's identity, and the precision, which changes only rounding (the released code trains in float32).
FREE = ("init", "activation", "seed", "precision")
PROTOCOL = {field.name: field.default for field in fields(Run) if field.name not in FREE}


def read_reference(path: Path, rows: str, columns: str) -> dict[tuple[Any, Any], Published]:
    """Read a table of published numbers. Its first line holds the column values; each other line begins with its row's.

    Args:
        path: CSV file; an entry is an accuracy in %, `n/c`, or a dash or nothing for what was not run.
        rows: field of Run that makes the rows; it is the file's first entry.
        columns: field of Run that makes the columns.

    Returns:
        (row value, column value) -> number or `n/c`; dashes are left out.

    Raises:
        UsageError: unreadable, or wrong content; the message names the file and the line.
    """
    try:
        text = read_bytes(path, MAX_BYTES).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(reader.line_num, [entry.strip() for entry in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot read the published numbers: {reason}") from None
    (line, (corner, *names)), *body = lines or [(1, [""])]
    table: dict[tuple[Any, Any], Published] = {}
    seen = set()
    try:
        heads = [_value(columns, name) for name in names]
        if corner != rows or not heads or len(set(heads)) < len(heads):
            raise UsageError(f"the first line must hold {rows!r} and the values of {columns!r}, each once")
        for line, (first, *entries) in body:  # noqa: B007  # for the message
            row = _value(rows, first)
            if row in seen or len(entries) != len(heads):
                raise UsageError(f"row {row!r} must occur once and have {count(len(heads), 'entry', 'entries')}")
            seen.add(row)
            numbers = zip(heads, entries, strict=True)
            table |= {(row, head): _number(entry) for head, entry in numbers if entry not in ("", "-", "–")}
    except UsageError as error:
        raise UsageError(f"{path}, line {line}: {error}") from None
    return table


def _value(axis: str, text: str) -> Any:
    """Read the value of an axis as an experiment file would."""
    try:
        return check_settings({axis: parse(text)})[axis]
    except yaml.YAMLError:
        raise UsageError(f"cannot read {text!r} as a value of {axis}") from None


def _number(entry: str) -> Published:
    if entry == "n/c":
        return "n/c"
    try:
        value = float(entry)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UsageError(f"{entry!r} is not an accuracy; give a number from 0 to 100, n/c, or - for not run")
    return value


def why_not_comparable(run: Run) -> str:
    """Explain why a run's number does not compare with the published one; empty if it does.

    It compares if only the precision departs from the protocol behind the published number: CIFAR-10, width 1, 90,000
    iterations and all other defaults of Run, or the recipe released for its cell.
    """
    if made_to_train(run):
        return "the released recipe for this cell was made so that it trains"
    recipe = RELEASED.get((run.init, run.activation), {})
    allowed = recipe if run.has(recipe) else {}
    # the paper's input_scale was not published: results/input_scale.md
    return "; ".join(
        f"{name} {display_name(value)} ({'inferred' if name == 'input_scale' else 'paper'}: {display_name(default)})"
        for name, default in PROTOCOL.items()
        if (value := getattr(run, name)) != default and name not in allowed
    )


def made_to_train(run: Run) -> bool:
    """Whether a run follows the released recipe of a cell that does not converge by the paper's protocol."""
    cell = (run.init, run.activation)
    return cell in MADE_TO_TRAIN and run.has(RELEASED[cell])


def recipe_note(run: Run) -> str | None:
    """A footnote for a cell whose run does not follow the recipe that the released code has for it; else None."""
    cell = (run.init, run.activation)
    recipe = RELEASED.get(cell, {})
    if run.has(recipe):
        return None
    settings = ", ".join(f"{name} {display_name(value)}" for name, value in recipe.items())
    made = ", made so that it trains" if cell in MADE_TO_TRAIN else ""
    return (
        f"The released code trains this cell by a recipe of its own{made} ({settings}); here it is trained uniformly."
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How our cell compares with a published number. Ours is `higher` or `lower` than the paper's.

    Args:
        word: `consistent`, `higher`, `lower`, `not judged`, `not comparable`, or empty where the paper has no number.
        reason: why it is not judged or not comparable, else empty.
        difference: our mean less the published number, in percentage points, where they compare.
        half_width: of the 95 % prediction interval of one more run around our mean, in percentage points.
    """

    word: str
    reason: str = ""
    difference: float | None = None
    half_width: float | None = None


def verdict(cell: Cell | None, published: Published | None, spread: Spread | None) -> Verdict:
    """Judge a published number: does it lie where one more run of ours would?

    Args:
        cell: our cell; None if the experiment has none.
        published: the paper's number, `n/c`, or None for a dash.
        spread: by which the cell is judged; None if unknown.
    """
    if cell is None:
        return Verdict("", "not run")
    mean = cell.mean
    half = None if mean is None or spread is None else prediction_half_width(spread, cell.converged)
    if published is None:
        return Verdict("", "no published number", half_width=half)
    if reason := why_not_comparable(cell.run):
        return Verdict("not comparable", reason, half_width=half)
    difference = None if mean is None or published == "n/c" else mean - published
    if cell.n < MIN_RUNS:
        return Verdict("not judged", f"n = {cell.n} < {MIN_RUNS}", difference, half)
    if published == "n/c":
        word = "consistent" if cell.nc else "higher"
    elif difference is None:
        word = "lower"
    elif half is None:
        return Verdict("not judged", "no spread to judge by", difference)
    else:
        word = "consistent" if abs(difference) <= half else "higher" if difference > 0 else "lower"
    return Verdict(word, "", difference, half)


def expected_outside(verdicts: Iterable[Verdict]) -> float:
    """How many numbers are expected outside their prediction intervals by chance: 5 % of those judged by one."""
    return (1 - LEVEL) * sum(v.word in JUDGED and v.difference is not None for v in verdicts)
