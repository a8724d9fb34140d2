"""What the initialisations did, layer by layer, gathered over the runs of a cell."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from replicate.report.statistics import Interval
from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class LayerInit:
    """One layer over the runs and maxout pieces of a cell.

    Args:
        layer: its name.
        pieces: number of its pieces in one run.
        before: geometric mean of the pre-activation's variance before the first rescaling; None where nothing rescaled.
        variance: likewise after the whole initialisation; None where no variance is positive and finite.
        range: smallest and largest variance after the initialisation.
        tries: fewest and most rescalings; None where nothing rescaled.
        settled: number of pieces, over all runs, within the tolerance; None where nothing rescaled.
        count: number of pieces over all runs.
    """

    layer: str
    pieces: int
    before: float | None
    variance: float | None
    range: Interval | None
    tries: tuple[int, int] | None
    settled: int | None
    count: int


def init_report(results: Iterable[Result]) -> tuple[LayerInit, ...]:
    """Gather the reports of one cell's runs, in the order of the forward pass; empty if no record holds one."""
    layers: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        for entry in result.init:
            layers.setdefault(str(entry["layer"]), []).append(entry)
    return tuple(_gather(layer, entries) for layer, entries in layers.items())


def _gather(layer: str, entries: Sequence[Mapping[str, Any]]) -> LayerInit:
    variances = _positive(entry["variance"] for entry in entries)
    tries = [value for entry in entries if isinstance(value := entry.get("tries"), int)]
    settled = [value for entry in entries if isinstance(value := entry.get("converged"), bool)]
    return LayerInit(
        layer=layer,
        pieces=len({str(entry["piece"]) for entry in entries}),
        before=_geometric(_positive(entry.get("variance_before") for entry in entries)),
        variance=_geometric(variances),
        range=Interval(min(variances), max(variances)) if variances else None,
        tries=(min(tries), max(tries)) if tries else None,
        settled=sum(settled) if settled else None,
        count=len(entries),
    )


def _positive(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and 0 < value < math.inf]


def _geometric(values: Sequence[float]) -> float | None:
    return math.exp(fmean(map(math.log, values))) if values else None
