"""Measure all layers after an initialisation, and find out why some have not kept their unit variance."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from replicate.init import report
from replicate.init.forward import ForwardRunner
from replicate.init.layers import WeightLayer
from replicate.init.measure import finite, measure_call
from replicate.init.report import LayerReport
from replicate.init.survey import Survey
from replicate.init.tracking import Call, track_calls

Key = tuple[str, int]  # layer and piece


def variances(
    survey: Survey, runner: ForwardRunner, passes: int, before_call: Callable[[WeightLayer], None] = lambda _: None
) -> dict[Key, float | None]:
    """Measure the mean variance of each piece of each layer over some batches, in the order of the calls."""
    found: dict[Key, list[float]] = {}

    def on_call(layer: WeightLayer, call: Call) -> None:
        for piece, measured in enumerate(measure_call(layer, call)):
            found.setdefault((layer.name, piece), []).append(measured.variance)

    for _ in range(passes):
        with track_calls(survey, on_call, before_call):
            runner()
    return {key: finite(sum(values) / len(values)) for key, values in found.items()}


def with_variances(rows: list[LayerReport], means: Mapping[Key, float | None]) -> list[LayerReport]:
    """Add the variances to the rows."""
    return [replace(row, variance=means.get((row.layer, row.piece))) for row in rows]


def check_rows(
    rows: list[LayerReport], survey: Survey, runner: ForwardRunner, tol: float, one_pass: bool
) -> list[LayerReport]:
    """Correct the status of layers that had reached unit variance but do not have it at the end.

    Args:
        rows: with their `variance`, if it was measured.
        survey: of the model.
        runner: runs the model.
        tol: LSUV's tolerance. The mean over further batches may be off by 2.5 times as much: 0.05 by default [ours].
        one_pass: whether `variance` was measured on the batch on which the layers were normalised.
    """

    def is_off(row: LayerReport) -> bool:
        if not row.converged or (row.variance is None and not one_pass):
            return False
        # On some devices the same computation may differ by a rounding.
        return abs((row.variance or 0) - 1) > (tol + 1e-4 if one_pass else 2.5 * tol)

    if not any(map(is_off, rows)):
        return rows
    cause = _causes(survey, runner) if one_pass else lambda _: report.SCATTERS
    return [replace(row, converged=False, status=cause(row)) if is_off(row) else row for row in rows]


def _causes(survey: Survey, runner: ForwardRunner) -> Callable[[LayerReport], str]:
    """Find out whether forward passes on one batch differ: with the same random numbers, and with others."""
    seen = []
    for offset in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(offset)
            seen.append(variances(survey, runner, 1))
    first, again, other = seen

    def cause(row: LayerReport) -> str:
        key = row.layer, row.piece
        if key not in first or first[key] != again.get(key):
            return report.CACHED
        return report.UNSTABLE if first[key] == other.get(key) else report.RANDOM

    return cause
