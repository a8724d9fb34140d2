"""One piece of a layer in LSUV's loop."""

import math

import torch
from torch import Tensor

from replicate.init import report
from replicate.init.layers import WeightLayer
from replicate.init.measure import Measurement, finite
from replicate.init.report import LARGE_SCALE, LayerReport
from replicate.init.settings import Settings


class Piece:
    """One piece of a layer in LSUV's loop: what it held before, its variances so far, and its status."""

    def __init__(self, layer: WeightLayer, index: int) -> None:
        self.index = index
        self.tensors = layer.tensors(index)  # views: writing to them changes the layer
        self.biases = layer.biases(index) if layer.adds_bias else []
        self.saved = [tensor.clone() for tensor in self.tensors]
        self.exact: Tensor | None = None  # the weight in at least 32 bits, from the first rescaling on
        self.norm: float | None = None  # of the weight, as it was last applied; None: unknown
        self.factor = 1.0  # of the last rescaling
        self.scale = 1.0
        self.variances: list[float | None] = []
        self.tries = 0
        self.status: str | None = None  # None until the piece is finished

    def update(self, measured: Measurement | None, settings: Settings) -> None:
        """Divide the weight by √variance, or finish the piece if its variance is 1 or no rescaling can make it 1.

        Args:
            measured: None if forward passes do not reach the layer.
            settings: the variance and the mean to reach, the tolerance and the maximum number of tries.
        """
        if measured is None:
            self.status = report.MISSED
            return
        self.variances.append(finite(measured.variance))
        relative = settings.relative(measured.variance)
        shift = 0.0 if settings.mean is None or not self.biases else settings.mean - measured.mean
        has_variance = abs(relative - 1) <= settings.tol
        is_done = has_variance and abs(shift) <= settings.tol * settings.std
        self.status = self._verdict(measured, is_done, settings)
        if self.status is not None:
            return
        self.tries += 1
        self.norm, self.factor = measured.norm, 1.0
        if has_variance:
            self.biases[0].add_(shift)
        else:
            self._rescale(math.sqrt(relative))

    def _verdict(self, measured: Measurement, is_done: bool, settings: Settings) -> str | None:
        """Return the status with which the piece is finished; None if it is to be rescaled."""
        if self.norm is not None and not self._answers(measured.norm):
            return report.NO_EFFECT
        if is_done:
            return report.CONVERGED
        if measured.number <= 1:
            return report.SINGLE
        if not math.isfinite(measured.variance):
            return report.NOT_FINITE
        if measured.variance == 0:
            return report.ZERO
        return self._gave_up(settings) if self.tries >= settings.max_iter else None

    def _gave_up(self, settings: Settings) -> str:
        if not 1 / LARGE_SCALE < self.scale < LARGE_SCALE:
            return report.NO_EFFECT
        # The paper's loop keeps what it has reached. Others may have gone far in vain.
        is_papers = settings.mean is None and settings.where == "preactivation"
        return report.NOT_CONVERGED if is_papers else report.OUT_OF_REACH

    def _answers(self, norm: float | None) -> bool:
        """Whether the weight, as it is applied, has the scale of the last rescaling, up to rounding errors."""
        if not norm or not self.norm or not math.isfinite(norm):
            return False
        wanted = math.log(self.factor)
        return abs(math.log(norm / self.norm) - wanted) <= 0.1 * abs(wanted) + 1e-3

    def _rescale(self, deviation: float) -> None:
        weight = self.tensors[0]
        if self.exact is None:  # weights of 16 bits are scaled in 32, so that rounding errors do not accumulate
            self.exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
        weight.copy_(self.exact.div_(deviation))
        self.factor = 1 / deviation
        self.scale /= deviation
        if not torch.isfinite(weight).all():
            self.status = report.OVERFLOW

    def row(self, layer: WeightLayer, order: int) -> LayerReport:
        """Make the row of a finished piece; `order` is the position of its call in the forward pass, from 1."""
        if self.status == report.NOT_REACHED:
            return LayerReport(layer.name, self.index, status=self.status)
        if not self.variances and self.status != report.MISSED:
            return LayerReport(layer.name, self.index, order=order, status=self.status)
        variances = self.variances or [None]
        return LayerReport(
            layer.name,
            self.index,
            order=order,
            variance_before=variances[0],
            variance_after=variances[-1],
            tries=self.tries,
            converged=self.status == report.CONVERGED,
            status=self.status,
            scale=self.scale,
        )

    def restore(self) -> None:
        """Write back what the piece held before."""
        self.scale = 1.0
        for tensor, values in zip(self.tensors, self.saved, strict=True):
            tensor.copy_(values)
