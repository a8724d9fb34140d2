"""Curves, layers and initialisations of a table's runs: what the page and the figures draw. Records in, numbers out."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from replicate.report.document import Document, places
from replicate.report.text import snapshot_name
from replicate.store.measurements import read_curve, read_layers
from replicate.store.result import BadRecordError, reason_of
from replicate.store.run_folder import LAYERS, RunFolder

METRICS = {"test_accuracy": "test accuracy (%)", "train_loss": "training loss (nats)", "test_loss": "test loss (nats)"}
QUANTITIES = {  # as reported by the initialisations, and as measured in snapshots
    "init_variance": "variance of the pre-activation",
    "variance": "variance of the pre-activation",
    "gradient_norm": "L2 norm of the gradient by the weight",
}
STATUS = {"converged": "", "not_converged": ", n/c", "diverged": ", diverged"}
Chart = dict[str, Any]
CellIndex = tuple[int, int]  # its indices in the rows and columns of the table
Sample = tuple[CellIndex, Any, Any]  # of a run or a layer: cell, x, value
Report = Mapping[str, Any]  # of one layer, or of one piece of a maxout layer, in a run's record


def read_charts(doc: Document, out: Path) -> dict[str, Any]:
    """Read the curves and the layers of a table's runs, and make charts of them.

    A chart is `{label, x, lines}`. A line has the indices `row` and `column` of its cell, `kind` (`mean`, of converged
    runs; `run`, one of them; `failed`, one that did not converge), `label`, `y`, and for means `low` (smallest) and
    `high` (largest value); None where there is no value. In all charts but the curves, means are geometric, over runs
    and maxout pieces, and values that are not positive and finite are left out, because a log axis cannot show them.

    Args:
        doc: of the table.
        out: the output folder. Curves and layers may be missing, and curves empty or cut off.

    Returns:
        - `curves`: metric -> chart; x in iterations.
        - `layers`: quantity -> iteration -> chart, of the initialisations' reports, at iteration 0, and of each
          snapshot in `layers.json`; x names of layers, in forward order.
        - `spectra`: layer, in forward order -> chart before and chart after training, of singular values; x their rank,
          from 0, the largest, to 1, the smallest.
        - `dead`: activation -> share of dead units of each layer, before and after training.
        - `bad`: each `layers.json` that could not be read -> why.
    """
    curves: dict[str, list[tuple[CellIndex, Document, dict[int, float]]]] = {metric: [] for metric in METRICS}
    layers: dict[str, dict[int, list[Sample]]] = {quantity: defaultdict(list) for quantity in QUANTITIES}
    spectra: dict[str, tuple[list[Sample], list[Sample]]] = defaultdict(lambda: ([], []))
    dead: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    names: list[str] = []  # of the layers of the deepest net
    bad: dict[Path, str] = {}
    cells = places(doc)
    for run in doc["runs"]:
        cell, folder = cells[run["run_id"]], RunFolder(out / "runs" / run["run_id"])
        if run["status"] != "error":
            for metric, points in read_curve(folder, METRICS).items():
                curves[metric].append((cell, run, points))
        layers["init_variance"][0] += [(cell, report["layer"], report["variance"]) for report in run["init"]]
        names = max(names, list(dict.fromkeys(report["layer"] for report in run["init"])), key=len)
        try:
            snapshots = read_layers(folder, run["fingerprint"])
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.path / LAYERS] = reason_of(error)
            continue
        for snapshot in snapshots:
            for layer in snapshot.layers:
                for quantity in ("variance", "gradient_norm"):
                    layers[quantity][snapshot.iteration].append((cell, layer.name, getattr(layer, quantity)))
                if snapshot.iteration == 0 or snapshot is snapshots[-1]:
                    if layer.dead is not None and layer.piece == 0:  # all pieces of a layer have the same number
                        dead[run["run"]["activation"]][snapshot.iteration > 0].append(layer.dead)
                    last = max(1, len(layer.singular_values) - 1)
                    ranked = [(cell, rank / last, value) for rank, value in enumerate(layer.singular_values)]
                    spectra[layer.name][snapshot.iteration > 0].extend(ranked)
    return {
        "curves": {metric: _curve_chart(METRICS[metric], runs) for metric, runs in curves.items()},
        "layers": {
            quantity: {
                iteration: _mean_chart(QUANTITIES[quantity], samples, dict.fromkeys([*names, *_x(samples)]))
                for iteration, samples in sorted(snapshots.items())
            }
            for quantity, snapshots in layers.items()
        },
        "spectra": {name: [_mean_chart(name, one, sorted(_x(one))) for one in both] for name, both in spectra.items()},
        "dead": dead,
        "bad": bad,
    }


def page_charts(doc: Document, charts: Mapping[str, Any]) -> dict[str, Any]:
    """Select the charts of the page.

    Returns:
        `rows`, `columns`: their titles. `milestones`: iterations. `chance`: in %, or None. `curves`: metric -> chart.
        `layers`: charts, each with its `moment` in training; those of the initialisations if there are no others.
        `outcomes`: see `outcomes`.
    """
    classes = doc["protocol"]["classes"]
    initial, *measured = charts["layers"].values()
    return {
        "rows": [row["title"] for row in doc["rows"]],
        "columns": [column["title"] for column in doc["columns"]],
        "milestones": doc["protocol"]["settings"].get("milestones", []),
        "chance": 100 / classes if classes else None,
        "curves": {metric: chart for metric, chart in charts["curves"].items() if chart["lines"]},
        "layers": [
            {"label": chart["label"], "moment": snapshot_name(iteration), "x": chart["x"], "lines": chart["lines"]}
            for snapshots in (measured if any(measured) else [initial])
            for iteration, chart in snapshots.items()
            if chart["lines"]
        ],
        "outcomes": outcomes(doc),
    }


def outcomes(doc: Document) -> list[dict[str, Any]]:
    """Say how the runs of each cell ended that did not converge.

    Returns:
        One mapping per cell with finished runs: `row` and `column`, its indices; and `text`, such as `at chance` or
        `2 of 3 diverged at 57 to 103`, empty if all of them converged.
    """
    iteration = {run["run_id"]: run["iteration"] for run in doc["runs"] if run["status"] == "diverged"}
    found = []
    for index, cell in enumerate(doc["cells"]):
        if not cell["finished"]:
            continue
        ends = sorted({iteration[run_id] for run_id in cell["run_ids"] if run_id in iteration})
        at = f"{ends[0]:,}{f' to {ends[-1]:,}' if len(ends) > 1 else ''}" if ends else ""
        kinds = [(cell["not_converged"], "at chance"), (cell["diverged"], f"diverged at {at}")]
        share = [text if n == cell["finished"] else f"{n} of {cell['finished']} {text}" for n, text in kinds if n]
        row, column = divmod(index, len(doc["columns"]))
        found.append({"row": row, "column": column, "text": ", ".join(share)})
    return found


def _curve_chart(label: str, runs: Sequence[tuple[CellIndex, Document, dict[int, float]]]) -> Chart:
    samples, singles = [], []
    x = sorted({iteration for _, _, points in runs for iteration in points})
    for cell, run, points in runs:
        kind = "run" if run["status"] == "converged" else "failed"
        if kind == "run":
            samples += [(cell, iteration, value) for iteration, value in points.items()]
        if points:
            name = f"seed {run['run']['seed']}{STATUS[run['status']]}"
            singles.append(_line(cell, kind, name, y=[points.get(at) for at in x]))
    return {"label": label, "x": x, "lines": [*_means(samples, x, fmean), *singles]}


def _x(samples: Iterable[Sample]) -> list[Any]:
    """The x of samples, in the order in which they first occur."""
    return list(dict.fromkeys(x for _, x, _ in samples))


def _mean_chart(label: str, samples: Iterable[Sample], order: Iterable[Any]) -> Chart:
    """A chart of geometric means; x in this order."""
    shown = [sample for sample in samples if _positive(sample[2])]
    known = set(_x(shown))
    x = [at for at in order if at in known]
    return {"label": label, "x": x, "lines": _means(shown, x, geometric_mean)}


def _means(samples: Iterable[Sample], x: Sequence[Any], mean: Callable[[list[float]], float]) -> list[Document]:
    """One line per cell that has samples, in the order of the table."""
    values: dict[CellIndex, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell, at, value in samples:
        values[cell][at].append(value)
    lines = []
    for cell, of_cell in sorted(values.items()):
        y, low, high = (
            [statistic(of_cell[at]) if at in of_cell else None for at in x] for statistic in (mean, min, max)
        )
        lines.append(_line(cell, "mean", "mean", y=y, low=low, high=high))
    return lines


def _line(cell: CellIndex, kind: str, label: str, **values: Sequence[Any]) -> Document:
    rounded = {  # to five digits, which is more than a screen shows
        name: [None if value is None else float(f"{value:.5g}") for value in numbers]
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
        before = [entry["variance_before"] for entry in entries if _positive(entry.get("variance_before"))]
        after = [entry["variance"] for entry in entries if _positive(entry["variance"])]
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


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf
