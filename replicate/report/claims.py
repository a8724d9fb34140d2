"""Claims of the paper on its own table: read them from YAML, and judge each from our cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from replicate.errors import UsageError, explain, unknown
from replicate.report.cell import Cell
from replicate.report.published import MIN_RUNS, made_to_train
from replicate.report.statistics import LEVEL, Interval, clopper_pearson, holm, welch
from replicate.run import TYPES, Run, Settings
from replicate.store.files import read_bytes
from replicate.yamlfile import MOST_BYTES, parse


def _cells_pattern(pattern: Settings) -> Settings:
    if not pattern:
        raise ValueError("give at least one `field: value`")
    if "seed" in pattern:
        raise ValueError("a cell holds all of its seeds, so leave seed out")
    return pattern


Pattern = Annotated[Settings, AfterValidator(_cells_pattern)]


@pydantic_dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Claim:
    """A claim, as data.

    Args:
        id: its name.
        text: the claim for people.
        kind: one of JUDGES.
        cells: partial settings of a run; each names the cells that match it.
        among: for `best`: names the rivals.
    """

    id: str
    text: str
    kind: str
    cells: Annotated[tuple[Pattern, ...], Field(min_length=1, strict=False)]
    among: Pattern | None = None

    def __post_init__(self) -> None:
        if self.kind not in JUDGES:
            raise unknown("kind", self.kind, JUDGES)
        if self.kind == "best" and len(self.cells) != 1:
            raise UsageError(f"best is claimed of one cell, not of {len(self.cells)}")
        if self.kind == "descending" and len(self.cells) < 2:
            raise UsageError("descending needs at least two cells")
        if (self.kind == "best") != (self.among is not None):
            raise UsageError("best needs among, the rivals" if self.kind == "best" else f"{self.kind} takes no among")


_CLAIM = TypeAdapter(Claim)
KEYS = {"": Claim.__dataclass_fields__, "cells": TYPES, "among": TYPES}


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of what a claim is about.

    Args:
        label: what is measured.
        value: in `unit`.
        interval: 95 %, not corrected for the number of comparisons; None where there are too few runs for one.
        unit: `%` or `points`, which are percentage points.
    """

    label: str
    value: float
    interval: Interval | None
    unit: str = "points"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim, whether our cells bear it out (`supported`, `contradicted`, `undecided`), why, and by how much."""

    claim: Claim
    verdict: str
    reason: str
    effect: Effect | None = None


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Read a file of claims.

    Raises:
        UsageError: unreadable, or an unknown or missing key, kind, field or name; the message begins with the file's
            name and names the claim.
    """
    try:
        content = parse(read_bytes(path, MOST_BYTES).decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or error
        raise UsageError(f"{path}: cannot read the claims: {reason}") from None
    if not isinstance(content, list):
        raise UsageError(f"{path}: claims must be a list")
    claims: dict[str, Claim] = {}
    for number, item in enumerate(content, start=1):
        name = item.get("id", number) if isinstance(item, dict) else number
        try:
            claim = _CLAIM.validate_python(item)
        except ValidationError as error:
            reason = explain(error, KEYS, "a claim")
            raise UsageError(f"{path}: claim {name}: {reason}") from None
        except UsageError as error:
            raise UsageError(f"{path}: claim {name}: {error}") from None
        if claim.id in claims:
            raise UsageError(f"{path}: claim {name}: the id occurs twice")
        claims[claim.id] = claim
    return tuple(claims.values())


def _matches(run: Run, pattern: Settings) -> bool:
    return all(getattr(run, field) == value for field, value in pattern.items())


def judge(claim: Claim, cells: Sequence[Cell], left_out: Sequence[Run] = ()) -> Judgement:
    """Judge a claim.

    Differences are Welch's, two-sided at 5 % after Holm's correction over the claim's comparisons. A cell that is n/c
    is below every cell that converged. Every cell that the claim needs must have three runs; one converged run is
    enough to contradict `never_converges`.

    Args:
        claim: the claim.
        cells: the cells of the table.
        left_out: settings of the experiment's cells that the table leaves out; a claim on one of them is undecided.
    """
    patterns = claim.cells if claim.among is None else (*claim.cells, claim.among)
    if any(_matches(run, pattern) for run in left_out for pattern in patterns):
        return Judgement(claim, "undecided", "not all of its cells are in this table")
    return JUDGES[claim.kind](claim, cells)


def _never_converges(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    found = [cell for cell in cells if any(_matches(cell.run, pattern) for pattern in claim.cells)]
    if not found:
        return Judgement(claim, "undecided", "not in this experiment")
    if own := [cell.name for cell in found if made_to_train(cell.run)]:
        return Judgement(claim, "undecided", f"trained by a recipe made so that it trains: {', '.join(own)}")
    converged, finished = sum(cell.converged for cell in found), sum(cell.finished for cell in found)
    effect = None
    if finished:
        share = clopper_pearson(converged, finished)
        percent = Interval(100 * share.low, 100 * share.high)
        effect = Effect("share of runs that converged", 100 * converged / finished, percent, "%")
    if converged:
        which = ", ".join(cell.name for cell in found if cell.converged)
        return Judgement(claim, "contradicted", f"{converged} of {finished} runs converged: {which}", effect)
    if few := _too_few(found):
        return Judgement(claim, "undecided", few, effect)
    return Judgement(claim, "supported", f"none of {finished} runs converged", effect)


def _best(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    claimants = [cell for cell in cells if _matches(cell.run, claim.cells[0])]
    if problem := _not_one(claimants):
        return Judgement(claim, "undecided", problem)
    rivals = [cell for cell in cells if _matches(cell.run, claim.among or {}) and cell is not claimants[0]]
    if not rivals:
        return Judgement(claim, "undecided", "no rival in this experiment")
    pairs = [(claimants[0], rival) for rival in rivals]
    measured = [rival for rival in rivals if rival.mean is not None]
    strongest = max(measured, key=lambda cell: cell.mean or 0, default=None)
    effect = _effect(claimants[0], strongest) if strongest else None
    return _ordered(claim, pairs, effect)


def _descending(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    chain = []
    for pattern in claim.cells:
        found = [cell for cell in cells if _matches(cell.run, pattern)]
        if problem := _not_one(found):
            return Judgement(claim, "undecided", problem)
        chain.append(found[0])
    pairs = list(pairwise(chain))
    steps = [effect for effect in (_effect(*pair) for pair in pairs) if effect]
    return _ordered(claim, pairs, min(steps, key=lambda step: step.value, default=None))


JUDGES: Mapping[str, Callable[[Claim, Sequence[Cell]], Judgement]] = {
    "never_converges": _never_converges,
    "best": _best,
    "descending": _descending,
}


def _ordered(claim: Claim, pairs: Sequence[tuple[Cell, Cell]], effect: Effect | None) -> Judgement:
    """Judge that the first cell of every pair is above the second."""
    if field := _differs([cell.run for pair in pairs for cell in pair]):
        return Judgement(claim, "undecided", f"its cells are not trained alike: {field} differs", effect)
    if few := _too_few([cell for pair in pairs for cell in pair]):
        return Judgement(claim, "undecided", few, effect)
    measured = [pair for pair in pairs if not pair[0].nc and not pair[1].nc]
    differences = [welch(upper.accuracies, lower.accuracies) for upper, lower in measured]
    adjusted = holm([difference.p for difference in differences])
    undecided: list[str] = []
    for (upper, lower), difference, p in zip(measured, differences, adjusted, strict=True):
        if p <= 1 - LEVEL and difference.value < 0:
            return Judgement(claim, "contradicted", f"{lower.name} is above {upper.name} (Holm p = {p:.2g})", effect)
        if p > 1 - LEVEL:
            undecided.append(f"{upper.name} over {lower.name} (Holm p = {p:.2g})")
    for upper, lower in pairs:
        if upper.nc and not lower.nc:
            return Judgement(claim, "contradicted", f"{upper.name} is n/c, {lower.name} is not", effect)
        if upper.nc and lower.nc:
            undecided.append(f"{upper.name} over {lower.name} (both n/c)")
    if undecided:
        return Judgement(claim, "undecided", f"not shown: {', '.join(undecided)}", effect)
    between = ", " if claim.kind == "best" else ", which is above "
    beaten = between.join(lower.name for _, lower in pairs)
    return Judgement(claim, "supported", f"{pairs[0][0].name} is above {beaten}", effect)


def _differs(runs: Sequence[Run]) -> str | None:
    """The first setting, other than init, activation and seed, in which runs differ."""
    fields = [field for field in Run.__dataclass_fields__ if field not in ("init", "activation", "seed")]
    return next((field for field in fields if len({getattr(run, field) for run in runs}) > 1), None)


def _effect(upper: Cell, lower: Cell) -> Effect | None:
    if upper.mean is None or lower.mean is None:
        return None
    label = f"{upper.name} − {lower.name}"
    if min(upper.converged, lower.converged) < 2:
        return Effect(label, upper.mean - lower.mean, None)
    difference = welch(upper.accuracies, lower.accuracies)
    return Effect(label, difference.value, difference.interval)


def _too_few(cells: Sequence[Cell]) -> str:
    few = {cell.name: cell.n for cell in cells if cell.n < MIN_RUNS}
    if not few:
        return ""
    if len(few) == len({cell.name for cell in cells}):
        return f"n < {MIN_RUNS} in every cell"
    return f"n < {MIN_RUNS}: " + ", ".join(f"{name} (n = {n})" for name, n in few.items())


def _not_one(cells: Sequence[Cell]) -> str:
    if len(cells) > 1:
        return f"names {len(cells)} cells of this table, and needs one: {', '.join(cell.name for cell in cells)}"
    return "" if cells else "not in this experiment"
