"""Curves, layers and initialisations of a table's runs: what the page and the figures draw. Records in, numbers out."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from replicate.report.table import Table
from replicate.report.text import display_name, snapshot_name
from replicate.store.measurements import read_curve, read_layers
from replicate.store.result import BadRecordError, Result, reason_of
from replicate.store.run_folder import LAYERS, RunFolder

METRICS = {"test_accuracy": "test accuracy (%)", "train_loss": "training loss (nats)", "test_loss": "test loss (nats)"}
QUANTITIES = {
    "variance": "variance of the pre-activation",
    "gradient_norm": "L2 norm of the gradient by the weight",
}
DIGITS = 5  # significant ones: more than a screen shows
STATUS = {"converged": "", "not_converged": ", n/c", "diverged": ", diverged"}
Chart = dict[str, Any]
CellIndex = tuple[int, int]  # its indices in the rows and columns of the table
Samples = dict[CellIndex, dict[Any, list[float]]]  # values of runs or of layers, by cell and x
Place = tuple[int, str]  # of a layer: its number in the forward pass, and its name
Report = Mapping[str, Any]  # of one layer, or of one piece of a maxout layer, in a run's record


@dataclass(frozen=True, slots=True)
class Charts:
    """Charts of a table's runs.

    A chart is `{label, x, lines}`. A line has the indices `row` and `column` of its cell, `kind` (`mean`, of converged
    runs; `run`, one of them; `failed`, one that did not converge), `label`, `y`, and for means `low` (smallest) and
    `high` (largest value); None where there is no value. In all charts but the curves, means are geometric, over runs
    and maxout pieces, and values that are not positive and finite are left out, because a log axis cannot show them.

    Args:
        curves: metric -> chart; x in iterations.
        init_variance: 0 -> chart, of what the initialisations reported; x names of layers, in forward order.
        layers: quantity -> iteration -> chart, of each snapshot in `layers.json`; x names of layers.
        spectra: layer, in forward order -> chart before and chart after training, of singular values; x their rank,
            from 0, the largest, to 1, the smallest.
        bad: each `layers.json` that could not be read, and why.
    """

    curves: Mapping[str, Chart]
    init_variance: Mapping[int, Chart]
    layers: Mapping[str, Mapping[int, Chart]]
    spectra: Mapping[str, Sequence[Chart]]
    bad: Mapping[Path, str]


def read_charts(table: Table, out: Path) -> Charts:
    """Read the curves and the layers of a table's runs.

    Args:
        table: whose runs they are.
        out: the output folder. Curves and layers may be missing, and curves empty or cut off.
    """
    curves: dict[str, list[tuple[CellIndex, Result, dict[int, float]]]] = {metric: [] for metric in METRICS}
    reported = _samples()
    layers: dict[str, dict[int, Samples]] = {quantity: defaultdict(_samples) for quantity in QUANTITIES}
    spectra: dict[Place, tuple[Samples, Samples]] = defaultdict(lambda: (_samples(), _samples()))
    bad: dict[Path, str] = {}
    for result in table.results:
        run, folder = result.run, RunFolder.of(out, result.run)
        row, column = (getattr(run, axis) for axis in table.axes)
        cell = (table.rows.index(row), table.columns.index(column))
        if result.status != "error":
            for metric, points in read_curve(folder, METRICS).items():
                curves[metric].append((cell, result, {iteration: value for iteration, _, value in points}))
        for place, report in zip(_places(entry["layer"] for entry in result.init), result.init, strict=True):
            reported[cell][place] += _positive([report["variance"]])
        try:
            snapshots = read_layers(folder, result.fingerprint)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.path / LAYERS] = reason_of(error)
            continue
        for snapshot in snapshots:
            places = _places(layer.name for layer in snapshot.layers)
            for place, layer in zip(places, snapshot.layers, strict=True):
                for quantity, samples in layers.items():
                    samples[snapshot.iteration][cell][place] += _positive([getattr(layer, quantity)])
                if snapshot.iteration == 0 or snapshot is snapshots[-1]:
                    last = max(1, len(layer.singular_values) - 1)
                    for rank, value in enumerate(layer.singular_values):
                        spectra[place][snapshot.iteration > 0][cell][rank / last] += _positive([value])
    return Charts(
        curves={metric: _curve_chart(METRICS[metric], runs) for metric, runs in curves.items()},
        init_variance={0: _layer_chart("variance", reported)},
        layers={
            quantity: {iteration: _layer_chart(quantity, one) for iteration, one in sorted(samples.items())}
            for quantity, samples in layers.items()
        },
        spectra={place[1]: [_mean_chart(place[1], one) for one in spectra[place]] for place in sorted(spectra)},
        bad=bad,
    )


def page_charts(table: Table, charts: Charts) -> dict[str, Any]:
    """Select the charts of the page.

    Returns:
        `rows`, `columns`: their titles. `milestones`: iterations. `chance`: in %, or None. `curves`: metric -> chart.
        `layers`: charts, each with its `moment` in training; those of the initialisations if there are no others.
    """
    classes = table.protocol.classes
    layers = list(charts.layers.values()) if any(charts.layers.values()) else [charts.init_variance]
    return {
        "rows": [display_name(row) for row in table.rows],
        "columns": [display_name(column) for column in table.columns],
        "milestones": list(table.protocol.settings.get("milestones", ())),
        "chance": 100 / classes if classes else None,
        "curves": {metric: chart for metric, chart in charts.curves.items() if chart["lines"]},
        "layers": [
            {"label": chart["label"], "moment": snapshot_name(iteration), "x": chart["x"], "lines": chart["lines"]}
            for snapshots in layers
            for iteration, chart in snapshots.items()
            if chart["lines"]
        ],
    }


def _samples() -> Samples:
    return defaultdict(lambda: defaultdict(list))


def _places(names: Iterable[str]) -> list[Place]:
    """The place of each layer or piece; the pieces of a layer share it."""
    places: dict[str, int] = {}
    return [(places.setdefault(name, len(places)), name) for name in names]


def _curve_chart(label: str, runs: Sequence[tuple[CellIndex, Result, dict[int, float]]]) -> Chart:
    samples, singles = _samples(), []
    x = sorted({iteration for _, _, points in runs for iteration in points})
    for cell, result, points in runs:
        kind = "run" if result.status == "converged" else "failed"
        if kind == "run":
            for iteration, value in points.items():
                samples[cell][iteration].append(value)
        if points:
            name = f"seed {result.run.seed}{STATUS[result.status]}"
            singles.append(_line(cell, kind, name, y=[points.get(at) for at in x]))
    return {"label": label, "x": x, "lines": [*_means(samples, x, fmean), *singles]}


def _layer_chart(quantity: str, samples: Samples) -> Chart:
    chart = _mean_chart(QUANTITIES[quantity], samples)
    return {**chart, "x": [name for _, name in chart["x"]]}


def _mean_chart(label: str, samples: Samples) -> Chart:
    """A chart of geometric means."""
    x = sorted({at for of_cell in samples.values() for at, values in of_cell.items() if values})
    return {"label": label, "x": x, "lines": _means(samples, x, geometric_mean)}


def _means(samples: Samples, x: Sequence[Any], mean: Callable[[list[float]], float]) -> list[dict[str, Any]]:
    lines = []
    for cell, of_cell in sorted(samples.items()):
        values = [of_cell.get(at, []) for at in x]
        y, low, high = ([statistic(one) if one else None for one in values] for statistic in (mean, min, max))
        lines += [_line(cell, "mean", "mean", y=y, low=low, high=high)] if any(values) else []
    return lines


def _line(cell: CellIndex, kind: str, label: str, **values: Sequence[Any]) -> dict[str, Any]:
    rounded = {
        name: [None if value is None else float(f"{value:.{DIGITS}g}") for value in numbers]
        for name, numbers in values.items()
    }
    return {"row": cell[0], "column": cell[1], "kind": kind, "label": label, **rounded}


def init_report(reports: Iterable[Sequence[Report]]) -> list[dict[str, Any]]:
    """Summarise what an initialisation did to each layer, over the runs of a cell.

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
    layers: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        for entry in report:
            layers[entry["layer"]].append(entry)
    found = []
    for layer, entries in layers.items():
        before = _positive(entry.get("variance_before") for entry in entries)
        after = _positive(entry["variance"] for entry in entries)
        tries = [entry["tries"] for entry in entries if isinstance(entry.get("tries"), int)]
        within = [entry["converged"] for entry in entries if isinstance(entry.get("converged"), bool)]
        summary = {
            "layer": layer,
            "pieces": len({entry["piece"] for entry in entries}),
            "count": len(entries),
            "before": geometric_mean(before) if before else None,
            "variance": geometric_mean(after) if after else None,
            "range": [min(after), max(after)] if after else None,
            "tries": [min(tries), max(tries)] if tries else None,
            "within": sum(within) if within else None,
        }
        found.append(summary)
    return found


def _positive(values: Iterable[object]) -> list[float]:
    return [value for value in values if isinstance(value, int | float) and 0 < value < math.inf]
