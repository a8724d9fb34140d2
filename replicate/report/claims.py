"""Claims of the paper about its table: read from YAML, and judged by our cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Annotated, NamedTuple

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from replicate.errors import UsageError, explain
from replicate.field_types import one_of
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
    kind: Annotated[str, one_of("kind", ("never_converges", "best", "descending"))]
    cells: Annotated[tuple[Pattern, ...], Field(min_length=1, strict=False)]
    among: Pattern | None = None

    def __post_init__(self) -> None:
        if self.kind == "best" and (len(self.cells) != 1 or self.among is None):
            raise UsageError("best needs one cell, and among, its rivals")
        if self.kind != "best" and self.among is not None:
            raise UsageError(f"{self.kind} takes no among")
        if self.kind == "descending" and len(self.cells) < 2:
            raise UsageError("descending needs at least two cells")
        if any("seed" in pattern for pattern in (*self.cells, self.among or {})):
            raise UsageError("a cell holds all of its seeds, so leave seed out")

    def concerns(self, run: Run) -> bool:
        """Whether the claim is about the cell of a run, as one of its cells or as a rival."""
        return any(run.has(pattern) for pattern in (*self.cells, *([] if self.among is None else [self.among])))


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


class Judgement(NamedTuple):
    """The judgement of a claim.

    Args:
        verdict: `supported`, `contradicted` or `undecided`.
        reason: for it.
        effect: the size of what the claim is about; None if nothing is known of it.
        not_significant: differences that leave it undecided, such as `LSUV × ReLU over Xavier × ReLU`.
    """

    verdict: str
    reason: str
    effect: Effect | None = None
    not_significant: tuple[str, ...] = ()


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
            if claim.id in claims:
                raise UsageError("the id occurs twice")
        except (ValidationError, UsageError) as error:
            reason = explain(error, KEYS, "a claim") if isinstance(error, ValidationError) else error
            raise UsageError(f"{path}: claim {name}: {reason}") from None
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
    if any(map(claim.concerns, left_out)):
        return Judgement("undecided", "not all of its cells are in this table")
    try:
        if claim.kind == "never_converges":
            return _never_converges(_matching(cells, *claim.cells))
        named = [_only_cell(pattern, cells) for pattern in claim.cells]
        if claim.kind == "descending":
            return _ordered(claim, list(pairwise(named)))
        rivals = [cell for cell in _matching(cells, claim.among or {}) if cell is not named[0]]
        return _ordered(claim, [(named[0], rival) for rival in rivals])
    except _UndecidedError as error:
        return Judgement("undecided", str(error))


def _never_converges(found: Sequence[Cell]) -> Judgement:
    if not found:
        raise _UndecidedError("not in this experiment")
    if own := [cell.name for cell in found if made_to_train(cell.run)]:
        raise _UndecidedError(f"trained by a recipe made so that it trains: {', '.join(own)}")
    converged, finished = sum(cell.converged for cell in found), sum(cell.finished for cell in found)
    effect = None
    if finished:
        interval = clopper_pearson(converged, finished)
        effect = Effect("share of runs that converged", 100 * converged / finished, interval, "%")
    if converged:
        which = ", ".join(cell.name for cell in found if cell.converged)
        return Judgement("contradicted", f"{converged} of {finished} runs converged: {which}", effect)
    if few := _too_few(found):
        return Judgement("undecided", few, effect)
    return Judgement("supported", f"none of {finished} runs converged", effect)


def _ordered(claim: Claim, pairs: Sequence[tuple[Cell, Cell]]) -> Judgement:
    """Judge that the first cell of every pair is above the second. The effect is the smallest difference."""
    if not pairs:
        raise _UndecidedError("no rival in this experiment")
    cells = list({cell.name: cell for pair in pairs for cell in pair}.values())
    measured = [pair for pair in pairs if not pair[0].nc and not pair[1].nc]
    effects = [_difference(upper, lower) for upper, lower in measured if upper.converged and lower.converged]
    effect = min(effects, key=lambda effect: effect.value, default=None)
    if field := differing_field([cell.run for cell in cells], free=("init", "activation", "seed")):
        return Judgement("undecided", f"its cells differ in {field}", effect)
    if few := _too_few(cells):
        return Judgement("undecided", few, effect)
    p_values = iter(holm([welch(upper.accuracies, lower.accuracies).p for upper, lower in measured]))
    undecided: dict[str, str] = {}
    for upper, lower in pairs:
        if upper.nc and lower.nc:
            undecided[f"{upper.name} over {lower.name}"] = "both n/c"
        elif upper.nc:
            return Judgement("contradicted", f"{upper.name} is n/c, {lower.name} is not", effect)
        elif not lower.nc:
            p = next(p_values)
            if p > 1 - LEVEL:
                undecided[f"{upper.name} over {lower.name}"] = f"Holm p = {p:.2g}"
            elif (upper.mean or 0) < (lower.mean or 0):
                return Judgement("contradicted", f"{lower.name} is above {upper.name} (Holm p = {p:.2g})", effect)
    if undecided:
        listed = ", ".join(f"{pair} ({why})" for pair, why in undecided.items())
        return Judgement("undecided", f"not significant: {listed}", effect, tuple(undecided))
    beaten = (", " if claim.kind == "best" else ", which is above ").join(lower.name for _, lower in pairs)
    return Judgement("supported", f"{pairs[0][0].name} is above {beaten}", effect)


def _matching(cells: Sequence[Cell], *patterns: Settings) -> list[Cell]:
    return [cell for cell in cells if any(map(cell.run.has, patterns))]


def _only_cell(pattern: Settings, cells: Sequence[Cell]) -> Cell:
    found = _matching(cells, pattern)
    if not found:
        raise _UndecidedError("not in this experiment")
    if len(found) > 1:
        names = ", ".join(cell.name for cell in found)
        raise _UndecidedError(f"a pattern matches {len(found)} cells instead of one: {names}")
    return found[0]


def _difference(upper: Cell, lower: Cell) -> Effect:
    several = min(upper.converged, lower.converged) > 1
    interval = welch(upper.accuracies, lower.accuracies).interval if several else None
    return Effect(f"{upper.name} − {lower.name}", fmean(upper.accuracies) - fmean(lower.accuracies), interval)


def _too_few(cells: Sequence[Cell]) -> str:
    few = [f"{cell.name} (n = {cell.n})" for cell in cells if cell.n < MIN_RUNS]
    if few and len(few) == len(cells):
        return f"n < {MIN_RUNS} in every cell"
    return f"n < {MIN_RUNS}: {', '.join(few)}" if few else ""
