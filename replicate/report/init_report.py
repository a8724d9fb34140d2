"""What an initialisation did, layer by layer, gathered over the runs of a cell."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

Report = Mapping[str, Any]  # of one layer, or of one piece of a maxout layer, in a run's record


def init_report(reports: Iterable[Sequence[Report]]) -> list[dict[str, Any]]:
    """Gather the reports of one cell's runs.

    Args:
        reports: `init` of each record.

    Returns:
        One mapping per layer, in the order of the forward pass:

        - `layer`: its name. `pieces`: number of its pieces in one run. `count`: number of pieces over all runs.
        - `before`: geometric mean of the pre-activation's variance before the first rescaling; None without rescaling.
        - `variance`: geometric mean after the initialisation, and `range`: the smallest and the largest variance; None
          if no variance is positive and finite.
        - `tries`: fewest and most rescalings. `within`: number of pieces, over all runs, that ended within the
          tolerance. Both are None without rescaling.
    """
    layers: dict[str, list[Report]] = {}
    for report in reports:
        for entry in report:
            layers.setdefault(str(entry["layer"]), []).append(entry)
    return [_gather(layer, entries) for layer, entries in layers.items()]


def _gather(layer: str, entries: Sequence[Report]) -> dict[str, Any]:
    variances = _positive(entry["variance"] for entry in entries)
    tries = [value for entry in entries if isinstance(value := entry.get("tries"), int)]
    within = [value for entry in entries if isinstance(value := entry.get("converged"), bool)]
    return {
        "layer": layer,
        "pieces": len({str(entry["piece"]) for entry in entries}),
        "count": len(entries),
        "before": _geometric_mean(_positive(entry.get("variance_before") for entry in entries)),
        "variance": _geometric_mean(variances),
        "range": [min(variances), max(variances)] if variances else None,
        "tries": [min(tries), max(tries)] if tries else None,
        "within": sum(within) if within else None,
    }


def _positive(values: Iterable[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float) and 0 < value < math.inf]


def _geometric_mean(values: Sequence[float]) -> float | None:
    return math.exp(fmean(map(math.log, values))) if values else None
