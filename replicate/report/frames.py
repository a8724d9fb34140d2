"""What the figures and the page's charts draw, as tidy frames: one row per value. Records in, numbers out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from replicate.report.table import Table
from replicate.store.layers import Snapshot
from replicate.store.result import BadRecordError, reason_of
from replicate.store.run_folder import LAYERS, RunFolder

METRICS = {"test_accuracy": "test accuracy (%)", "train_loss": "training loss (nats)", "test_loss": "test loss (nats)"}
QUANTITIES = {
    "variance": "variance of the pre-activation",
    "gradient_norm": "L2 norm of the gradient by the weight",
}
HEAD = ("row", "column", "run_id")
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Frames:
    """What there is of a table's runs.

    Each frame begins with `row` and `column`, the indices of the run's values among the table's rows and columns, and
    `run_id`. A layer has a `position` in the forward pass, from 0, and a name, `layer`; the pieces of a maxout layer
    share both. In all frames but the curves, a value that is not positive and finite is NaN: it has no place on a log
    axis.

    Args:
        curves: seed, status, metric, iteration, epoch, value; without the runs that ended in an error.
        init_variance: position, layer, value: variances that the initialisation reported.
        layers: iteration, position, layer, quantity, value: of `layers.json`, at each of its snapshots.
        spectra: position, layer, after, share, value: singular values of the first snapshot and, where `after`, of the
            last one, if that is later. The share is the rank, from 0, the largest, to 1, the smallest.
        bad: each `layers.json` that could not be read, and why.
    """

    curves: pd.DataFrame
    init_variance: pd.DataFrame
    layers: pd.DataFrame
    spectra: pd.DataFrame
    bad: Mapping[Path, str]


def read_frames(table: Table, out: Path) -> Frames:
    """Read the curves and the layers of a table's runs.

    Args:
        table: whose runs they are.
        out: the output folder. Curves and layers may be missing, and curves empty or cut off.
    """
    curves: Rows = []
    variances: Rows = []
    layers: Rows = []
    spectra: Rows = []
    bad: dict[Path, str] = {}
    for result in table.results:
        run, folder = result.run, RunFolder.of(out, result.run)
        row, column = (getattr(run, axis) for axis in table.axes)
        head = (table.rows.index(row), table.columns.index(column), run.run_id)
        if result.status != "error":
            for metric, points in folder.points(*METRICS).items():
                curves += [(*head, run.seed, result.status, metric, *point) for point in points]
        places = _places(str(report["layer"]) for report in result.init)
        variances += [(*head, *places[str(report["layer"])], report["variance"]) for report in result.init]
        try:
            snapshots = folder.snapshots(result)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.path / LAYERS] = reason_of(error)
            continue
        layers += [(*head, *line) for snapshot in snapshots for line in _quantities(snapshot)]
        ends = [snapshot for snapshot in snapshots if snapshot.iteration == 0 or snapshot is snapshots[-1]]
        spectra += [(*head, *line) for snapshot in ends for line in _spectra(snapshot)]
    columns = [*HEAD, "position", "layer", "after", "share", "value"]
    singular = pd.DataFrame(spectra, columns=columns).explode(["share", "value"], ignore_index=True)
    return Frames(
        curves=_frame(curves, "seed", "status", "metric", "iteration", "epoch"),
        init_variance=_positive(_frame(variances, "position", "layer")),
        layers=_positive(_frame(layers, "iteration", "position", "layer", "quantity")),
        spectra=_positive(singular.astype({"share": float, "value": float})),
        bad=bad,
    )


def averaged(frame: pd.DataFrame, *along: str, geometric: bool = False) -> pd.DataFrame:
    """Average over the runs of a cell and the pieces of its layers, in ascending order of all keys.

    Args:
        frame: one of `Frames`, or some of its rows.
        along: the columns that tell the values of a run apart, such as the iteration.
        geometric: take the geometric mean, as for a log scale.

    Returns:
        row, column, those of `along`, and the mean, low (smallest) and high (largest) value, without groups of NaN.
    """
    values = frame.assign(value=np.log(frame["value"])) if geometric else frame
    means = values.groupby(["row", "column", *along])["value"].agg(mean="mean", low="min", high="max").dropna()
    return (np.exp(means) if geometric else means).reset_index()


def _places(names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Each layer's position and name; the pieces of a layer share its name."""
    return {name: (position, name) for position, name in enumerate(dict.fromkeys(names))}


def _quantities(snapshot: Snapshot) -> Rows:
    places = _places(layer.name for layer in snapshot.layers)
    return [
        (snapshot.iteration, *places[layer.name], quantity, getattr(layer, quantity))
        for layer in snapshot.layers
        for quantity in QUANTITIES
    ]


def _spectra(snapshot: Snapshot) -> Rows:
    """One row per layer and piece, with lists of the shares and of the singular values."""
    places = _places(layer.name for layer in snapshot.layers)
    found: Rows = []
    for layer in snapshot.layers:
        if values := layer.singular_values:
            shares = [rank / max(1, len(values) - 1) for rank in range(len(values))]
            found.append((*places[layer.name], snapshot.iteration > 0, shares, values))
    return found


def _frame(rows: Rows, *columns: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*HEAD, *columns, "value"]).astype({"value": float})


def _positive(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(value=frame["value"].where(frame["value"].between(0, np.inf, inclusive="neither")))
