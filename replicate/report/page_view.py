"""What the report page shows of each cell and claim: its texts, and its places on the page's scales."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from replicate.report.claims import Effect, Judgement
from replicate.report.init_reports import LayerInit, init_report
from replicate.report.markdown import cell_text, effect_texts, letter, number_text
from replicate.report.reproduce import Source
from replicate.report.statistics import Cell
from replicate.report.table import Entry, Table
from replicate.store.result import Result

LEAST_SHADE = 0.5  # points; smaller differences never get the full colour


@dataclass(frozen=True, slots=True)
class Scale:
    """A range of values, laid out from 0 to 100 % of a width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """The place of a value, in %; the middle where the range is a single value."""
        width = self.high - self.low
        return round(100 * (value - self.low) / width, 2) if width else 50.0


@dataclass(frozen=True, slots=True)
class Strip:
    """Accuracies of a cell on the scale that all cells share, in % of its width.

    Args:
        dots: the converged runs.
        interval: both ends of the mean's interval; None below two runs.
        paper: the published number, where it compares.
    """

    dots: tuple[float, ...]
    interval: tuple[float, float] | None
    paper: float | None


@dataclass(frozen=True, slots=True)
class CellView:
    """One place of the table.

    Args:
        id: of its elements on the page.
        entry: the place.
        text: our number, `n/c`, a dash or how far it is.
        counts: what stands behind it: `(n=4, 1 n/c)`.
        paper: the published number.
        notes: marks of its footnotes.
        shade: difference to the published number, from -1 to 1 of the largest in the table; None where there is none.
        strip: its runs, where any has converged.
        runs: its records.
        inits: what the initialisation did, layer by layer.
        command: that makes its runs again.
    """

    id: str
    entry: Entry
    text: str
    counts: str
    paper: str
    notes: str
    shade: float | None
    strip: Strip | None
    runs: tuple[Result, ...]
    inits: tuple[LayerInit, ...]
    command: str


@dataclass(frozen=True, slots=True)
class ClaimView:
    """A claim: its judgement, the effect in words, and its places on a scale: value, both ends, zero; None if none."""

    judgement: Judgement
    effect: str
    interval: str
    value: float | None = None
    ends: tuple[float, float] | None = None
    zero: float | None = None


def cell_views(table: Table, source: Source) -> list[list[CellView]]:
    """The table's places, row by row."""
    entries = table.entries.values()
    found: dict[tuple[object, ...], list[Result]] = {}
    for result in table.results:
        found.setdefault(tuple(getattr(result.run, axis) for axis in table.axes), []).append(result)
    scale, largest = accuracy_scale(entries), largest_difference(entries)
    views = []
    for y, row in enumerate(table.rows):
        line = []
        for x, column in enumerate(table.columns):
            entry, runs = table.entries[row, column], found.get((row, column), [])
            text, _, counts = cell_text(entry.cell).partition(" (")
            difference = entry.verdict.difference
            view = CellView(
                id=f"cell-{y}-{x}",
                entry=entry,
                text=text,
                counts=f"({counts}" if counts else "",
                paper=number_text(entry.published),
                notes=" ".join(map(letter, entry.notes)),
                shade=None if difference is None or not largest else difference / largest,
                strip=_strip(entry, scale) if scale and entry.cell else None,
                runs=tuple(runs),
                inits=init_report(runs),
                command=source.cell(table.axes, (row, column)) if entry.cell else "",
            )
            line.append(view)
        views.append(line)
    return views


def accuracy_scale(entries: Iterable[Entry]) -> Scale | None:
    """The range of our accuracies and of the published numbers that compare; None if no run has converged."""
    found = list(entries)
    ours = [value for entry in found if entry.cell and not entry.cell.nc for value in entry.cell.accuracies]
    paper = [value for entry in found if (value := _comparable(entry)) is not None]
    return Scale(min(ours + paper), max(ours + paper)) if ours else None


def largest_difference(entries: Iterable[Entry]) -> float:
    """The difference, in points, that gets the full colour; 0 if there is none at all."""
    differences = [abs(entry.verdict.difference) for entry in entries if entry.verdict.difference is not None]
    return max([LEAST_SHADE, *differences]) if differences else 0.0


def _comparable(entry: Entry) -> float | None:
    number = entry.published
    return number if isinstance(number, float) and entry.cell and entry.verdict.word != "not comparable" else None


def _strip(entry: Entry, scale: Scale) -> Strip | None:
    cell: Cell | None = entry.cell
    if cell is None or cell.nc or not cell.accuracies:
        return None
    interval, paper = cell.interval, _comparable(entry)
    # an interval may reach beyond all runs; what lies outside the scale is cut off
    ends = tuple(min(100.0, max(0.0, scale.at(end))) for end in (interval.low, interval.high)) if interval else None
    dots = tuple(scale.at(value) for value in cell.accuracies)
    return Strip(dots, (ends[0], ends[1]) if ends else None, None if paper is None else scale.at(paper))


def claim_views(judgements: Sequence[Judgement]) -> list[ClaimView]:
    """The claims; effects of one unit share a scale, which has zero on it."""
    ends_of: dict[str, list[float]] = {}
    for judgement in judgements:
        if judgement.effect:
            ends_of.setdefault(judgement.effect.unit, [1.0]).extend(_ends(judgement.effect))
    views = []
    for judgement in judgements:
        effect, (text, interval) = judgement.effect, effect_texts(judgement)
        if effect is None:
            views.append(ClaimView(judgement, text, interval))
            continue
        scale = Scale(0, 100) if effect.unit == "%" else _around_zero(ends_of[effect.unit])
        ends = (scale.at(effect.interval.low), scale.at(effect.interval.high)) if effect.interval else None
        views.append(ClaimView(judgement, text, interval, scale.at(effect.value), ends, scale.at(0)))
    return views


def _ends(effect: Effect) -> list[float]:
    return [effect.value, *([effect.interval.low, effect.interval.high] if effect.interval else [])]


def _around_zero(values: Iterable[float]) -> Scale:
    reach = max(map(abs, values))
    return Scale(-reach, reach)
