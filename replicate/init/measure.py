"""Variances of pre-activations, of one batch or as a mean over several."""

import contextlib
import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from replicate.init.following import Follower, OnActivation
from replicate.init.forward import ForwardRunner
from replicate.init.layers import WeightLayer
from replicate.init.settings import Settings
from replicate.init.survey import Survey
from replicate.init.tracking import BeforeCall, Call, OnCall, track_calls

OnMeasure = Callable[[WeightLayer, list["Measurement"]], None]

MAX_BATCHES = 64  # after so many, a mean is used even if it is still uncertain
# Student's t, 97.5 %, for a mean of 2, 3, … batches; beyond 10 batches slightly too large
_STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class Moments(NamedTuple):
    """Number of values, their mean and their biased variance."""

    number: int
    mean: float
    variance: float


def moments(values: Tensor) -> Moments:
    """Compute mean and biased variance of all values, in at least float32.

    Returns:
        The variance is exactly 0 if all values are equal, and NaN if there are none or one of them is not finite.
    """
    values = values.values() if values.is_nested else values
    values = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if not values.numel():
        return Moments(0, math.nan, math.nan)
    low, high = map(float, torch.aminmax(values))
    if not low < high:  # all values are equal, or one of them is NaN
        return Moments(values.numel(), low, high - low)
    variance = float(values.var(correction=0))
    if not 1e-30 < variance < math.inf:  # squares outside float32's range
        variance = float(values.cpu().double().var(correction=0))
    return Moments(values.numel(), float(values.mean()), variance)


class Measurement(NamedTuple):
    """The moments of one piece's pre-activation, or of what its activation returns.

    Args:
        number: of values.
        mean: of all values, over one or more batches.
        variance: biased; the mean over these batches.
        norm: L2 norm of the weight as it was applied; None if the weight is a parameter, whose scale is known.
    """

    number: int
    mean: float
    variance: float
    norm: float | None


def measure_call(layer: WeightLayer, call: Call) -> list[Measurement]:
    """Measure each piece of a layer in one call. There are none if the weight has no pre-activation of its own."""
    values = call.values()
    return [Measurement(*moments(one), norm) for one, norm in zip(values, _norms(layer, call), strict=False)]


def _norms(layer: WeightLayer, call: Call) -> Sequence[float | None]:
    return call.norms() if layer.computed else [None] * layer.pieces


def finite(variance: float) -> float | None:
    """Return the variance, or None if it is NaN or beyond float32: the net has exploded."""
    return variance if abs(variance) <= torch.finfo(torch.float32).max else None


class Passes:
    """Forward passes of a model in which its layers are measured.

    Args:
        survey: of the model.
        runner: runs it.
        after_activation: whether to measure what the activations of the layers return. A layer without one is measured
            before it. The first pass finds the activations.
    """

    def __init__(self, survey: Survey, runner: ForwardRunner, after_activation: bool = False) -> None:
        self.survey, self.runner, self.after_activation = survey, runner, after_activation
        self._activated: set[WeightLayer] = set()  # the layers that have an activation

    def run(
        self,
        on_measure: OnMeasure = lambda layer, pieces: None,
        before_call: BeforeCall = lambda layer: None,
        follower: Follower | None = None,
    ) -> None:
        """Run one forward pass.

        Args:
            on_measure: called with each layer and one measurement per piece, in the order of the forward pass.
            before_call: called with each layer before its first call.
            follower: follows the outputs of the layers.
        """
        on_call: OnCall = lambda layer, call: on_measure(layer, measure_call(layer, call))  # noqa: E731
        if self.after_activation:
            follower = follower or Follower()
            on_call, follower.on_activation = self._measuring_activations(on_measure)
        with track_calls(self.survey, on_call, before_call, follower):
            self.runner()

    def _measuring_activations(self, on_measure: OnMeasure) -> tuple[OnCall, OnActivation]:
        """Return what to do at the call of a layer, and at the call of its activation."""
        norms: dict[WeightLayer, Sequence[float | None]] = {}  # of layers whose activation is yet to come

        def on_call(layer: WeightLayer, call: Call) -> None:
            if layer in self._activated:
                norms[layer] = _norms(layer, call)
            else:
                on_measure(layer, measure_call(layer, call))

        def on_activation(layer: WeightLayer, output: Tensor) -> None:
            if layer in norms:
                found = moments(output)
                on_measure(layer, [Measurement(*found, norm) for norm in norms.pop(layer)])
            else:
                self._activated.add(layer)

        return on_call, on_activation


class _ReachedError(BaseException):
    """Ends a forward pass at the layer to be measured. Not an Exception, because models may catch those."""


def estimate(passes: Passes, layer: WeightLayer, settings: Settings, is_first: bool) -> list[Measurement] | None:
    """Estimate the variance of each piece of a layer as a mean over fresh batches.

    Args:
        passes: run the model, up to the layer.
        layer: the layer to measure.
        settings: `average` is the number of batches. None: as many as needed until the 95 % interval of the mean is
            within ± `tol` or excludes 1 ± `tol`, at most MAX_BATCHES. Up to `max_iter` further forward passes are tried
            if some miss the layer.
        is_first: whether the layer has not been rescaled yet. Then, without `average`, one batch is enough if its
            variance is off by more than `tol`.

    Returns:
        One measurement for each piece; None if forward passes miss the layer.
    """
    batches: list[list[Measurement]] = []

    def on_measure(measured: WeightLayer, pieces: list[Measurement]) -> None:
        if measured is layer:
            if all(piece.number for piece in pieces):  # an expert may get no tokens
                batches.append(pieces)
            raise _ReachedError

    # The model may leave out the layer at random: then the next forward pass may reach it.
    for _ in range((settings.average or MAX_BATCHES) + settings.max_iter):
        with contextlib.suppress(_ReachedError):
            passes.run(on_measure)
        if batches and _enough(batches, settings, is_first):
            return [mean_of(piece) for piece in zip(*batches, strict=True)]
    return None


def mean_of(batches: Sequence[Measurement]) -> Measurement:
    """Average the measurements of one piece over batches."""
    number, count = sum(one.number for one in batches), len(batches)
    mean = sum(one.mean for one in batches) / count
    variance = sum(one.variance for one in batches) / count
    return Measurement(number, mean, variance, batches[-1].norm)


def _enough(batches: list[list[Measurement]], settings: Settings, is_first: bool) -> bool:
    if settings.average is not None:
        return len(batches) == settings.average
    pieces = [[settings.relative(one.variance) for one in piece] for piece in zip(*batches, strict=True)]
    if len(batches) == 1 and is_first:
        return all(not abs(piece[0] - 1) <= settings.tol for piece in pieces)
    return len(batches) >= MAX_BATCHES or all(_is_known(piece, settings.tol) for piece in pieces)


def _is_known(variances: list[float], tol: float) -> bool:
    """Whether the 95 % interval of the mean is within ± tol or excludes 1 ± tol, or the mean is not finite."""
    if not all(map(math.isfinite, variances)):
        return True
    count = len(variances)
    if count == 1:
        return False
    half = _STUDENT_T[min(count - 2, len(_STUDENT_T) - 1)] * stdev(variances) / math.sqrt(count)
    return half <= tol or abs(fmean(variances) - 1) - half > tol
