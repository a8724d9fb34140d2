"""Measure all layers after an initialisation, and find out why some have not kept their unit variance."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from replicate.init import report
from replicate.init.following import Follower
from replicate.init.layers import WeightLayer
from replicate.init.measure import Measurement, Passes, finite, mean_of
from replicate.init.report import LayerReport
from replicate.init.settings import Settings
from replicate.init.tracking import BeforeCall


class Final(NamedTuple):
    """What was measured of a piece of a layer: variance and mean over all batches, and whether it only gates others."""

    variance: float | None
    mean: float | None
    gates: bool


Key = tuple[str, int]  # layer and piece


def measure_all(passes: Passes, batches: int, before_call: BeforeCall = lambda _: None) -> dict[Key, Final]:
    """Measure each piece of each layer over some batches.

    Returns:
        In the order of the calls. Variance and mean are None if they are NaN or overflow float32.
    """
    found: dict[WeightLayer, list[list[Measurement]]] = {}
    gates: set[WeightLayer] = set()

    def on_measure(layer: WeightLayer, pieces: list[Measurement]) -> None:
        if all(piece.number for piece in pieces):  # an expert may get no tokens
            found.setdefault(layer, []).append(pieces)

    for _ in range(batches):
        follower = Follower()
        passes.run(on_measure, before_call, follower)
        gates |= follower.gates - follower.carries
    return {
        (layer.name, piece): Final(
            finite(mean_of(measured).variance),
            finite(mean_of(measured).mean),
            layer in gates or piece in layer.layout.gates,
        )
        for layer, batches_of_layer in found.items()
        for piece, measured in enumerate(zip(*batches_of_layer, strict=True))
    }


def add_final(rows: list[LayerReport], final: Mapping[Key, Final]) -> list[LayerReport]:
    """Add to the rows what was measured at the end."""
    return [
        replace(row, **final[row.layer, row.piece]._asdict()) if (row.layer, row.piece) in final else row
        for row in rows
    ]


def check_rows(rows: list[LayerReport], passes: Passes, settings: Settings, repeatable: bool) -> list[LayerReport]:
    """Correct the status of layers that had reached unit variance but do not have it at the end.

    Args:
        rows: with their `variance`, if it was measured.
        passes: run the model.
        settings: of LSUV. The mean over further batches may be off by 2.5 times the tolerance: 0.05 by default [ours].
        repeatable: whether `variance` was measured on the batch on which the layers were normalised, without dropout.
    """

    def is_off(row: LayerReport) -> bool:
        if not row.converged or (row.variance is None and not repeatable):
            return False
        # On some devices the same computation may differ by a rounding.
        slack = settings.tol + 1e-4 if repeatable else 2.5 * settings.tol
        return abs(settings.relative(row.variance or 0) - 1) > slack

    if not any(map(is_off, rows)):
        return rows
    status_of = _causes(passes) if repeatable else lambda row: report.SCATTERS if is_off(row) else None
    return [
        replace(row, converged=False, status=status)
        if row.converged and (status := status_of(row) or (report.UNSTABLE if is_off(row) else None))
        else row
        for row in rows
    ]


def _causes(passes: Passes) -> Callable[[LayerReport], str | None]:
    """Find out whether forward passes on one batch differ, with the same random numbers and with others.

    Returns:
        Gives the status of a layer whose variance differs, and None if it does not.
    """
    seen = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            seen.append(measure_all(passes, 1))

    def status(row: LayerReport) -> str | None:
        first, again, other = (
            found[key].variance if (key := (row.layer, row.piece)) in found else None for found in seen
        )
        if not _same(first, again):
            return report.DIFFERENT
        return None if _same(first, other) else report.RANDOM

    return status


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-4)
