"""Series behind the figures: learning curves over seeds, and variances over layers. Results in, rows out."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from replicate.store.curve import Point
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder


def learning_curves(results: Iterable[Result], out: Path, rows: str, columns: str) -> pd.DataFrame:
    """Average the test accuracy over a cell's converged runs, iteration by iteration, as `averaged` does.

    Args:
        results: the records; those that ended in an error are left out.
        out: the output folder; a curve may be missing, empty or cut off.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.
    """
    found = (
        (result, RunFolder.of(out, result.run).points("test_accuracy")["test_accuracy"])
        for result in results
        if result.status != "error"
    )
    return averaged(found, rows, columns)


def averaged(curves: Iterable[tuple[Result, Sequence[Point]]], rows: str, columns: str) -> pd.DataFrame:
    """Average curves over a cell's converged runs, iteration by iteration; leave the other runs on their own.

    A mean over runs of which some stayed at chance would show what no run did.

    Args:
        curves: each run's record and its points.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.

    Returns:
        A row for each line and iteration: row, column, line (`converged`, or the run_id of a run that is not),
        iteration, epoch, and, over the line's runs, the mean, low (smallest) and high (largest) value.
    """
    points = []
    for result, found in curves:
        line = "converged" if result.status == "converged" else result.run.run_id
        head = (getattr(result.run, rows), getattr(result.run, columns), line)
        points += [(*head, *point) for point in found]
    frame = pd.DataFrame(points, columns=["row", "column", "line", "iteration", "epoch", "value"])
    grouped = frame.groupby(["row", "column", "line", "iteration", "epoch"], sort=False)["value"]
    series = grouped.agg(mean="mean", low="min", high="max").reset_index()
    return series.sort_values("iteration", kind="stable", ignore_index=True)


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
