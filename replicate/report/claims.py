"""Claims of the paper about its table: read from YAML, and judged by our cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from replicate.errors import UsageError, explain, unknown
from replicate.experiment import matches
from replicate.report.cell import Cell, differing_field
from replicate.report.published import MIN_RUNS, made_to_train
from replicate.report.statistics import LEVEL, Interval, clopper_pearson, holm, welch
from replicate.run import TYPES, Run, Settings
from replicate.store.files import read_bytes
from replicate.yamlfile import MAX_BYTES, parse

Pattern = Annotated[Settings, Field(min_length=1)]


@pydantic_dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Claim:
    """A claim, as data.

    Args:
        id: its name.
        text: the claim in words.
        kind: `never_converges`, of all cells; `best`, of one cell among its rivals; or `descending`, of cells in order.
        cells: patterns, each some settings of a run; a pattern matches the cells that have these settings.
        among: the pattern of the rivals, for `best` only.
    """

    id: str
    text: str
    kind: str
    cells: Annotated[tuple[Pattern, ...], Field(min_length=1, strict=False)]
    among: Pattern | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind", self.kind, KINDS)
        if self.kind == "best" and (len(self.cells) != 1 or self.among is None):
            raise UsageError("best needs one cell, and among, its rivals")
        if self.kind != "best" and self.among is not None:
            raise UsageError(f"{self.kind} takes no among")
        if self.kind == "descending" and len(self.cells) < 2:
            raise UsageError("descending needs at least two cells")
        if any("seed" in pattern for pattern in (*self.cells, self.among or {})):
            raise UsageError("a cell holds all of its seeds, so leave seed out")


_CLAIM = TypeAdapter(Claim)
KEYS = {"": Claim.__dataclass_fields__, "cells": TYPES, "among": TYPES}


@dataclass(frozen=True, slots=True)
class Effect:
    """The size of what a claim is about.

    Args:
        label: what is measured.
        value: in `unit`.
        interval: 95 %, not corrected for the number of comparisons; None if there are too few runs.
        unit: `%` or `points`, which are percentage points.
    """

    label: str
    value: float
    interval: Interval | None
    unit: str = "points"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim, its verdict (`supported`, `contradicted` or `undecided`), the reason, and the effect."""

    claim: Claim
    verdict: str
    reason: str
    effect: Effect | None = None


class _UndecidedError(Exception):
    """The claim does not apply to the cells of this table; the message is the reason."""


def load_claims(path: Path) -> tuple[Claim, ...]:
    """Read a file of claims.

    Raises:
        UsageError: unreadable, or an unknown or missing key, kind, field or name; the message begins with the file's
            name and names the claim.
    """
    try:
        content = parse(read_bytes(path, MAX_BYTES).decode())
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
        except (ValidationError, UsageError) as error:
            reason = explain(error, KEYS, "a claim") if isinstance(error, ValidationError) else error
            raise UsageError(f"{path}: claim {name}: {reason}") from None
        if claim.id in claims:
            raise UsageError(f"{path}: claim {name}: the id occurs twice")
        claims[claim.id] = claim
    return tuple(claims.values())


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
    if any(matches(asdict(run), pattern) for run in left_out for pattern in patterns):
        return Judgement(claim, "undecided", "not all of its cells are in this table")
    try:
        return KINDS[claim.kind](claim, cells)
    except _UndecidedError as error:
        return Judgement(claim, "undecided", str(error))


def _never_converges(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    found = _matching(cells, *claim.cells)
    if not found:
        raise _UndecidedError("not in this experiment")
    if own := [cell.name for cell in found if made_to_train(cell.run)]:
        raise _UndecidedError(f"trained by a recipe made so that it trains: {', '.join(own)}")
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
    ours = _only_cell(claim.cells[0], cells)
    rivals = [cell for cell in _matching(cells, claim.among or {}) if cell is not ours]
    if not rivals:
        raise _UndecidedError("no rival in this experiment")
    return _ordered(claim, [(ours, rival) for rival in rivals])


def _descending(claim: Claim, cells: Sequence[Cell]) -> Judgement:
    return _ordered(claim, list(pairwise([_only_cell(pattern, cells) for pattern in claim.cells])))


KINDS: Mapping[str, Callable[[Claim, Sequence[Cell]], Judgement]] = {
    "never_converges": _never_converges,
    "best": _best,
    "descending": _descending,
}


def _ordered(claim: Claim, pairs: Sequence[tuple[Cell, Cell]]) -> Judgement:
    """Judge that the first cell of every pair is above the second. The effect is the smallest difference."""
    cells = list({cell.name: cell for pair in pairs for cell in pair}.values())
    measured = [pair for pair in pairs if not pair[0].nc and not pair[1].nc]
    effects = [_difference(upper, lower) for upper, lower in measured if upper.converged and lower.converged]
    effect = min(effects, key=lambda effect: effect.value, default=None)
    if field := differing_field([cell.run for cell in cells], free=("init", "activation", "seed")):
        return Judgement(claim, "undecided", f"its cells differ in {field}", effect)
    if few := _too_few(cells):
        return Judgement(claim, "undecided", few, effect)
    p_values = iter(holm([welch(upper.accuracies, lower.accuracies).p for upper, lower in measured]))
    undecided: list[str] = []
    for upper, lower in pairs:
        if upper.nc and lower.nc:
            undecided.append(f"{upper.name} over {lower.name} (both n/c)")
        elif upper.nc:
            return Judgement(claim, "contradicted", f"{upper.name} is n/c, {lower.name} is not", effect)
        elif not lower.nc:
            p = next(p_values)
            if p > 1 - LEVEL:
                undecided.append(f"{upper.name} over {lower.name} (Holm p = {p:.2g})")
            elif (upper.mean or 0) < (lower.mean or 0):
                reason = f"{lower.name} is above {upper.name} (Holm p = {p:.2g})"
                return Judgement(claim, "contradicted", reason, effect)
    if undecided:
        return Judgement(claim, "undecided", f"not shown: {', '.join(undecided)}", effect)
    beaten = (", " if claim.kind == "best" else ", which is above ").join(lower.name for _, lower in pairs)
    return Judgement(claim, "supported", f"{pairs[0][0].name} is above {beaten}", effect)


def _matching(cells: Sequence[Cell], *patterns: Settings) -> list[Cell]:
    return [cell for cell in cells if any(matches(asdict(cell.run), pattern) for pattern in patterns)]


def _only_cell(pattern: Settings, cells: Sequence[Cell]) -> Cell:
    found = _matching(cells, pattern)
    if not found:
        raise _UndecidedError("not in this experiment")
    if len(found) > 1:
        names = ", ".join(cell.name for cell in found)
        raise _UndecidedError(f"a pattern matches {len(found)} cells instead of one: {names}")
    return found[0]


def _difference(upper: Cell, lower: Cell) -> Effect:
    label = f"{upper.name} − {lower.name}"
    if min(upper.converged, lower.converged) < 2:
        return Effect(label, fmean(upper.accuracies) - fmean(lower.accuracies), None)
    difference = welch(upper.accuracies, lower.accuracies)
    return Effect(label, difference.value, difference.interval)


def _too_few(cells: Sequence[Cell]) -> str:
    few = [f"{cell.name} (n = {cell.n})" for cell in cells if cell.n < MIN_RUNS]
    if few and len(few) == len(cells):
        return f"n < {MIN_RUNS} in every cell"
    return f"n < {MIN_RUNS}: {', '.join(few)}" if few else ""
