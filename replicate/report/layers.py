"""What training measured in each layer, `layers.json`: read strictly, and averaged over the runs of a cell."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from replicate.results import BadRecordError, Result
from replicate.untrusted import read_bytes

SCHEMA = 1
MOST_BYTES = 16_000_000  # of a file; ours have about 100,000
Quantity = Literal["variance", "gradient_norm"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One weight layer, or one piece of a maxout layer, at one moment of training.

    Args:
        name: of the layer.
        piece: index of the maxout piece, else 0.
        variance: of the pre-activation over a fixed training batch, dropout off; None where it is not finite.
        gradient_norm: L2 norm of the mean loss's gradient by the weight; None likewise.
        singular_values: of the weight as (out, fan_in) matrix, in descending order; those not finite are left out.
    """

    name: str
    piece: int
    variance: float | None
    gradient_norm: float | None
    singular_values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """The layers of a net, in the order of the forward pass, after `iteration` steps; 0 is after initialisation."""

    iteration: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What an output folder holds of its runs' layers.

    Args:
        moments: run_id -> the moments of the run, in ascending order; runs without a file are not in it.
        bad: files that could not be read, each with its reason.
    """

    moments: Mapping[str, tuple[Moment, ...]]
    bad: Mapping[Path, str]

    def iterations(self) -> tuple[int, ...]:
        """The moments that occur, in ascending order."""
        return tuple(sorted({moment.iteration for moments in self.moments.values() for moment in moments}))


def measured_layers(results: Iterable[Result], out: Path) -> Measured:
    """Read `out/runs/<run_id>/layers.json` of every record that has one."""
    moments, bad = {}, {}
    for result in results:
        path = out / "runs" / result.run.run_id / "layers.json"
        try:
            moments[result.run.run_id] = read_layers(path, result)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[path] = str(error)
    return Measured(moments, bad)


def read_layers(path: Path, result: Result) -> tuple[Moment, ...]:
    """Read one `layers.json`.

    Args:
        path: the file.
        result: the record of its run; the file must name the same run and the same data.

    Raises:
        BadRecordError: half-written, of another schema, run or data set, or with a value of the wrong kind; the message
            names the file and what is wrong.
    """
    try:
        content = json.loads(read_bytes(path, MOST_BYTES))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise BadRecordError(f"not layers of schema {SCHEMA}")
        for key, wanted in (("run_id", result.run.run_id), ("fingerprint", result.fingerprint)):
            if content.get(key) != wanted:
                raise BadRecordError(f"{key} is {content.get(key)!r}, that of the record is {wanted!r}")
        moments = tuple(_moment(item) for item in _list(content, "moments"))
        if [moment.iteration for moment in moments] != sorted({moment.iteration for moment in moments}):
            raise BadRecordError("the iterations of its moments do not ascend")
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"{path}: {error}") from None
    return moments


def _moment(item: object) -> Moment:
    iteration = _field(item, "iteration")
    if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration < 0:
        raise BadRecordError(f"iteration is {iteration!r}")
    return Moment(iteration, tuple(_layer(layer) for layer in _list(item, "layers")))


def _layer(item: object) -> Layer:
    name, piece = _field(item, "name"), _field(item, "piece")
    if not isinstance(name, str) or not isinstance(piece, int):
        raise BadRecordError(f"a layer is named {name!r}, piece {piece!r}")
    singular = [_number("singular_values", value) for value in _list(item, "singular_values")]
    finite = tuple(value for value in singular if value is not None)
    variance, gradient = (_number(key, _field(item, key)) for key in ("variance", "gradient_norm"))
    return Layer(name, piece, variance, gradient, finite)


def _field(item: object, key: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise BadRecordError(f"{key} is missing")
    return item[key]


def _list(item: object, key: str) -> list[Any]:
    value = _field(item, key)
    if not isinstance(value, list):
        raise BadRecordError(f"{key} is no list")
    return value


def _number(key: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise BadRecordError(f"{key} holds {value!r}")
    return float(value)


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
                ranks = max(1, len(layer.singular_values) - 1)
                points += [
                    (*head, rank / ranks, math.log(value))
                    for rank, value in enumerate(layer.singular_values)
                    if value > 0
                ]
    keys = ["row", "column", "position", "layer", "after", "share"]
    grouped = pd.DataFrame(points, columns=[*keys, "log"]).groupby(keys, sort=False)["log"]
    spectra = grouped.agg(value="mean").reset_index()
    spectra["value"] = spectra["value"].map(math.exp)
    return spectra.sort_values(["position", "share"], kind="stable", ignore_index=True)
