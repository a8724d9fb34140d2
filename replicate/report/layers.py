"""What training measured in each layer, averaged over the runs of a cell."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from replicate.store.layers import Snapshot
from replicate.store.result import BadRecordError, Result
from replicate.store.run_folder import LAYERS, RunFolder

Quantity = Literal["variance", "gradient_norm"]


@dataclass(frozen=True, slots=True)
class Measured:
    """What an output folder holds of its runs' layers.

    Args:
        moments: run_id -> the moments of the run, in ascending order; runs without a file are not in it.
        bad: files that could not be read, each with its reason.
    """

    moments: Mapping[str, tuple[Snapshot, ...]]
    bad: Mapping[Path, str]

    def iterations(self) -> tuple[int, ...]:
        """The moments that occur, in ascending order."""
        return tuple(sorted({moment.iteration for moments in self.moments.values() for moment in moments}))


def measured_layers(results: Iterable[Result], out: Path) -> Measured:
    """Read `out/runs/<run_id>/layers.json` of every record that has one."""
    moments, bad = {}, {}
    for result in results:
        folder = RunFolder.of(out, result.run)
        try:
            moments[result.run.run_id] = folder.snapshots(result)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.path / LAYERS] = str(error)
    return Measured(moments, bad)


def layer_flow(results: Iterable[Result], measured: Measured, rows: str, columns: str, what: Quantity) -> pd.DataFrame:
    """Average a quantity of each layer over the runs and pieces of a cell, geometrically, as for a log scale.

    Args:
        results: the records.
        measured: what there is of their layers.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.
        what: the quantity.

    Returns:
        A row for each cell, moment and layer: row, column, iteration, position (of the layer in the forward pass, from
        0), layer, and the geometric mean, low (smallest) and high (largest) value. Values that are zero or not finite
        have no place on a log scale and are left out; `frame.attrs["left_out"]` counts them.
    """
    points, left_out = [], 0
    for result in results:
        place = (getattr(result.run, rows), getattr(result.run, columns))
        for moment in measured.moments.get(result.run.run_id, ()):
            position: dict[str, int] = {}
            for layer in moment.layers:
                position.setdefault(layer.name, len(position))
                value: float | None = getattr(layer, what)
                if value:
                    points.append((*place, moment.iteration, position[layer.name], layer.name, math.log(value)))
                else:
                    left_out += 1
    keys = ["row", "column", "iteration", "position", "layer"]
    grouped = pd.DataFrame(points, columns=[*keys, "log"]).groupby(keys, sort=False)["log"]
    flow = grouped.agg(mean="mean", low="min", high="max").reset_index()
    flow[["mean", "low", "high"]] = flow[["mean", "low", "high"]].map(math.exp)
    flow = flow.sort_values(["iteration", "position"], kind="stable", ignore_index=True)
    flow.attrs["left_out"] = left_out
    return flow


def layer_spectra(results: Iterable[Result], measured: Measured, rows: str, columns: str) -> pd.DataFrame:
    """Average the singular values of each layer's weight over the runs and pieces of a cell, rank by rank.

    Args:
        results: the records.
        measured: what there is of their layers.
        rows: field of Run that makes the table's rows.
        columns: likewise its columns.

    Returns:
        A row for each cell, layer, moment and rank: row, column, position (of the layer in the forward pass, from 0),
        layer, after (whether the moment is the run's last; else it is right after initialisation), share (the rank,
        from 0, the largest, to 1, the smallest), and value, the geometric mean. Values of zero are left out.
    """
    points = []
    for result in results:
        place = (getattr(result.run, rows), getattr(result.run, columns))
        for moment in measured.moments.get(result.run.run_id, ()):
            last = moment is measured.moments[result.run.run_id][-1]
            if moment.iteration and not last:
                continue
            position: dict[str, int] = {}
            for layer in moment.layers:
                head = (*place, position.setdefault(layer.name, len(position)), layer.name, moment.iteration > 0)
                finite = [value for value in layer.singular_values if value is not None]
                ranks = max(1, len(finite) - 1)
                points += [(*head, rank / ranks, math.log(value)) for rank, value in enumerate(finite) if value > 0]
    keys = ["row", "column", "position", "layer", "after", "share"]
    grouped = pd.DataFrame(points, columns=[*keys, "log"]).groupby(keys, sort=False)["log"]
    spectra = grouped.agg(value="mean").reset_index()
    spectra["value"] = spectra["value"].map(math.exp)
    return spectra.sort_values(["position", "share"], kind="stable", ignore_index=True)
