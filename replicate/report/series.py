"""Series behind the figures: learning curves over seeds, and variances over layers. Results in, rows out."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from replicate.results import Result


def learning_curves(
    results: Iterable[Result], out: Path, rows: str, columns: str, metric: str = "test_accuracy"
) -> pd.DataFrame:
    """Average a curve over a cell's converged runs, iteration by iteration; leave the other runs on their own.

    A mean over runs of which some stayed at chance would show what no run did.

    Args:
        results: the records; those that ended in an error are left out.
        out: the output folder; a curve is read from `out/runs/<run_id>/curve.csv`. It may be missing, empty or cut off.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.
        metric: column of `curve.csv`.

    Returns:
        A row for each line and iteration: row, column, line (`converged`, or the run_id of a run that is not),
        iteration, epoch, and, over the line's runs, the mean, low (smallest) and high (largest) value of the metric.
    """
    points = [
        (
            getattr(result.run, rows),
            getattr(result.run, columns),
            result.status if result.status == "converged" else result.run.run_id,
            *point,
        )
        for result in results
        if result.status != "error"
        for point in read_curve(out / "runs" / result.run.run_id / "curve.csv", metric)
    ]
    frame = pd.DataFrame(points, columns=["row", "column", "line", "iteration", "epoch", "value"])
    grouped = frame.groupby(["row", "column", "line", "iteration", "epoch"], sort=False)["value"]
    series = grouped.agg(mean="mean", low="min", high="max").reset_index()
    return series.sort_values("iteration", kind="stable", ignore_index=True)


def read_curve(path: Path, metric: str = "test_accuracy") -> list[tuple[int, float, float]]:
    """Read the whole rows of a `curve.csv`: iteration, epoch and the metric; none if there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):  # none, or none that can be read
        return []
    points = []
    for line in lines:
        try:
            iteration, epoch, value = (float(line[name]) for name in ("iteration", "epoch", metric))
        except (KeyError, TypeError, ValueError):
            continue  # a row that was cut off
        if math.isfinite(value):
            points.append((int(iteration), epoch, value))
    return points


def layer_variances(results: Iterable[Result], rows: str, columns: str) -> pd.DataFrame:
    """Average the variance of each layer's pre-activation after initialisation, geometrically, as for a log scale.

    Args:
        results: the records; those without a report contribute nothing.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.

    Returns:
        A row for each cell and layer: row, column, position (of the layer in the forward pass, from 0), layer, and,
        over its runs and pieces, the geometric mean, low (smallest) and high (largest) variance. Variances that are
        not positive and finite have no place on a log scale and are left out; `frame.attrs["left_out"]` counts them.
    """
    points = []
    left_out = 0
    for result in results:
        position: dict[str, int] = {}
        for report in result.init:
            layer, variance = str(report["layer"]), report.get("variance")
            position.setdefault(layer, len(position))
            if isinstance(variance, int | float) and 0 < variance < math.inf:
                place = (getattr(result.run, rows), getattr(result.run, columns))
                points.append((*place, position[layer], layer, math.log(variance)))
            else:
                left_out += 1
    frame = pd.DataFrame(points, columns=["row", "column", "position", "layer", "log"])
    grouped = frame.groupby(["row", "column", "position", "layer"], sort=False)["log"]
    series = grouped.agg(mean="mean", low="min", high="max").reset_index()
    series[["mean", "low", "high"]] = series[["mean", "low", "high"]].map(math.exp)
    series = series.sort_values("position", kind="stable", ignore_index=True)
    series.attrs["left_out"] = left_out
    return series
