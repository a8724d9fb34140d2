"""Measure weight layers at their first calls in a forward pass: find these calls, and compute variances."""

import contextlib
import math
from collections.abc import Callable, Iterator
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from replicate.init.forward import ForwardRunner
from replicate.init.layers import Call, WeightLayer

OnCall = Callable[[WeightLayer, Call], None]
BeforeCall = Callable[[WeightLayer], None]

# Functions that apply a weight, which is their second argument
_APPLY = {F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d}
_APPLY |= {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}

MAX_BATCHES = 64  # after so many, a mean is used even if it is still uncertain
# Student's t, 97.5 %, for a mean of 2, 3, … batches; beyond 10 batches slightly too large
_STUDENT_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


class FirstCallTracker(TorchFunctionMode):
    """Reports the first call of each layer, by its module or, as in torchvision's Swin, by a function on its weight.

    Args:
        layers: the layers to track.
        on_call: called with a layer and its call right after the call. The model continues with the call's `output`,
            which `on_call` may replace.
        before_call: called with a layer right before its call.
    """

    def __init__(self, layers: list[WeightLayer], on_call: OnCall, before_call: BeforeCall) -> None:
        super().__init__()
        self.on_call = on_call
        self.before_call = before_call
        self.waiting: dict[nn.Module, list[WeightLayer]] = {}
        self.by_weight: dict[int, WeightLayer] = {}
        for layer in layers:
            self.waiting.setdefault(layer.source, []).append(layer)
            if layer.source is layer.module and type(layer) is WeightLayer:
                self.by_weight.setdefault(id(layer.parameters()[0]), layer)
        # The hooked modules that are running, each with the layers whose first call this is, and its arguments
        self.running: list[tuple[nn.Module, list[WeightLayer], tuple[Any, ...], dict[str, Any]]] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start the first call of a module. Runs before all other hooks."""
        self.running.append((module, self._begin(module), args, kwargs))

    def leave(self, module: nn.Module, _args: object, _kwargs: object, output: Any) -> Any:
        """Report the call. Runs after all other hooks, before an in-place operation can change the output."""
        while self.running[-1][0] is not module:  # modules that ended with an exception, which the model caught
            self.running.pop()
        _, layers, args, kwargs = self.running.pop()
        return self._end(layers, Call(args, kwargs, output, lambda: module(*args, **kwargs)))

    def __torch_function__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        weight = args[1] if len(args) > 1 else given.get("weight")
        layer = self.by_weight.get(id(weight)) if func in _APPLY else None
        if layer is None or layer.module not in self.waiting or self._inside(layer):
            return func(*args, **given)
        layers = self._begin(layer.module)
        return self._end(layers, Call(args, given, func(*args, **given), lambda: func(*args, **given)))

    def _inside(self, layer: WeightLayer) -> bool:
        """Whether a module that shares the layer's weight is running, and so is the one that applies it."""
        return any(layer.parameters()[0] is own for module, *_ in self.running for own in module._parameters.values())

    def _begin(self, module: nn.Module) -> list[WeightLayer]:
        layers = self.waiting.pop(module, [])
        for layer in layers:
            self.before_call(layer)
        return layers

    def _end(self, layers: list[WeightLayer], call: Call) -> Any:
        for layer in layers:
            self.on_call(layer, call)
        return call.output


@contextlib.contextmanager
def track_calls(layers: list[WeightLayer], on_call: OnCall, before_call: BeforeCall = lambda _: None) -> Iterator[None]:
    """Track the first calls of layers until the context ends: see `FirstCallTracker`. No hook is left behind."""
    tracker = FirstCallTracker(layers, on_call, before_call)
    with contextlib.ExitStack() as stack:
        for module in tracker.waiting:
            # First before and last after the module, so that other hooks do their work in between.
            stack.enter_context(module.register_forward_pre_hook(tracker.enter, prepend=True, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(tracker.leave, with_kwargs=True))
        stack.enter_context(tracker)
        yield


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


def layer_moments(layer: WeightLayer, call: Call) -> list[Moments]:
    """Compute the moments of the pre-activation of each piece in one call of a layer."""
    return [moments(values) for values in layer.values(call)]


def finite(variance: float) -> float | None:
    """Return the variance, or None if it is NaN or beyond float32: the net has exploded."""
    return variance if abs(variance) <= torch.finfo(torch.float32).max else None


class _ReachedError(BaseException):
    """Ends a forward pass at the layer to be measured. No Exception, so that models that catch those let it through."""


def estimate_moments(
    runner: ForwardRunner, layer: WeightLayer, average: int | None, tol: float, max_misses: int, is_first: bool
) -> list[Moments] | None:
    """Estimate the variance of each piece of a layer as a mean over fresh batches.

    Args:
        runner: runs the model, up to the layer.
        layer: the layer to measure.
        average: number of batches. None: continue until the 95 % interval of the mean is within ± `tol`, or excludes
            1 ± `tol`, or MAX_BATCHES were measured.
        tol: LSUV's tolerance.
        max_misses: number of forward passes that may miss the layer before the estimate is given up.
        is_first: whether the layer has not been rescaled yet. Then, without `average`, one batch is enough if it is off
            by more than `tol`.

    Returns:
        The number of values and the mean variance of each piece; None if forward passes miss the layer.
    """
    batches: list[list[Moments]] = []

    def on_call(layer: WeightLayer, call: Call) -> None:
        batches.append(layer_moments(layer, call))
        raise _ReachedError

    # The model may leave out the layer at random: then the next forward pass may reach it.
    for _ in range((average or MAX_BATCHES) + max_misses):
        with track_calls([layer], on_call), contextlib.suppress(_ReachedError):
            runner()
        if batches and _enough(batches, average, tol, is_first):
            return [
                Moments(sum(one.number for one in piece), sum(one.variance for one in piece) / len(piece))
                for piece in zip(*batches, strict=True)
            ]
    return None


def _enough(batches: list[list[Moments]], average: int | None, tol: float, is_first: bool) -> bool:
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
