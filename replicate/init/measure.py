"""Variances of pre-activations, of one batch or as a mean over several."""

import contextlib
import math
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from replicate.init.forward import ForwardRunner
from replicate.init.layers import WeightLayer
from replicate.init.survey import Survey
from replicate.init.tracking import Call, track_calls

MAX_BATCHES = 64  # after so many, a mean is used even if it is still uncertain
# Student's t, 97.5 %, for a mean of 2, 3, … batches; beyond 10 batches slightly too large
_STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Moments(NamedTuple):
    """Number of values, and their biased variance."""

    number: int
    variance: float


def moments(values: Tensor) -> Moments:
    """Compute the biased variance of all values, in at least float32.

    Returns:
        The variance is exactly 0 if all values are equal, and NaN if there are none or one of them is not finite.
    """
    values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if not values.numel():
        return Moments(0, math.nan)
    low, high = map(float, torch.aminmax(values))
    if not low < high:  # all values are equal, or one of them is NaN
        return Moments(values.numel(), high - low)
    variance = float(values.var(correction=0))
    if not 1e-30 < variance < math.inf:  # squares outside float32's range
        variance = float(values.cpu().double().var(correction=0))
    return Moments(values.numel(), variance)


class Measurement(NamedTuple):
    """The pre-activation of one piece of a layer.

    Args:
        number: of values.
        variance: mean over one or more batches.
        norm: L2 norm of the weight as it was applied; None if the weight is a parameter and needs no look.
    """

    number: int
    variance: float
    norm: float | None


def measure_call(layer: WeightLayer, call: Call) -> list[Measurement]:
    """Measure each piece of a layer in one call. There are none if the weight has no pre-activation of its own."""
    norms = call.norms() if layer.computed else [None] * layer.pieces
    return [Measurement(*moments(values), norm) for values, norm in zip(call.values(), norms, strict=False)]


def finite(variance: float) -> float | None:
    """Return the variance, or None if it is NaN or beyond float32: the net has exploded."""
    return variance if abs(variance) <= torch.finfo(torch.float32).max else None


class _ReachedError(BaseException):
    """Ends a forward pass at the layer to be measured. No Exception, so that models that catch those let it through."""


def estimate(
    runner: ForwardRunner,
    survey: Survey,
    layer: WeightLayer,
    average: int | None,
    tol: float,
    max_misses: int,
    is_first: bool,
) -> list[Measurement] | None:
    """Estimate the variance of each piece of a layer as a mean over fresh batches.

    Args:
        runner: runs the model, up to the layer.
        survey: of the model.
        layer: the layer to measure.
        average: number of batches. None: continue until the 95 % interval of the mean is within ± `tol`, or excludes
            1 ± `tol`, or MAX_BATCHES were measured.
        tol: LSUV's tolerance.
        max_misses: number of forward passes that may miss the layer before the estimate is given up.
        is_first: whether the layer has not been rescaled yet. Then, without `average`, one batch is enough if it is off
            by more than `tol`.

    Returns:
        One measurement for each piece; None if forward passes miss the layer.
    """
    batches: list[list[Measurement]] = []

    def on_call(called: WeightLayer, call: Call) -> None:
        if called is layer:
            batches.append(measure_call(layer, call))
            raise _ReachedError

    # The model may leave out the layer at random: then the next forward pass may reach it.
    for _ in range((average or MAX_BATCHES) + max_misses):
        with track_calls(survey, on_call), contextlib.suppress(_ReachedError):
            runner()
        if batches and _enough(batches, average, tol, is_first):
            return [
                Measurement(
                    sum(one.number for one in piece), sum(one.variance for one in piece) / len(piece), piece[-1].norm
                )
                for piece in zip(*batches, strict=True)
            ]
    return None


def _enough(batches: list[list[Measurement]], average: int | None, tol: float, is_first: bool) -> bool:
    if average is not None:
        return len(batches) == average
    if len(batches) == 1 and is_first:
        return all(not abs(one.variance - 1) <= tol for one in batches[0])
    pieces = zip(*batches, strict=True)
    return len(batches) >= MAX_BATCHES or all(_is_known([one.variance for one in piece], tol) for piece in pieces)


def _is_known(variances: list[float], tol: float) -> bool:
    """Whether the 95 % interval of the mean is within ± tol, or excludes 1 ± tol, or there is no finite mean."""
    if not all(map(math.isfinite, variances)):
        return True
    count = len(variances)
    if count == 1:
        return False
    half = _STUDENT_T[min(count - 2, len(_STUDENT_T) - 1)] * stdev(variances) / math.sqrt(count)
    return half <= tol or abs(fmean(variances) - 1) - half > tol
