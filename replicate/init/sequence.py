"""LSUV's loop: one layer after another, in the order of their first calls, each piece to unit variance."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from replicate.init import report
from replicate.init.forward import ForwardRunner
from replicate.init.layers import Call, WeightLayer
from replicate.init.measure import Moments, estimate_moments, finite, layer_moments, track_calls
from replicate.init.report import LayerReport


class Piece:
    """One piece of a layer in LSUV's loop: what it held before, its variances so far, and its status.

    Args:
        layer: the layer.
        index: of the piece.
    """

    def __init__(self, layer: WeightLayer, index: int) -> None:
        self.index = index
        self.tensors = [layer.weight(index), *layer.biases(index)]  # views: writing to them changes the layer
        self.saved = [tensor.clone() for tensor in self.tensors]
        self.exact: Tensor | None = None
        self.variances: list[float | None] = []
        self.tries = 0
        self.status: str | None = None  # None until the piece is finished

    def update(self, measured: Moments | None, tol: float, max_iter: int) -> None:
        """Divide the weight by √variance, or finish the piece if its variance is 1 or no rescaling can make it 1.

        Args:
            measured: None if forward passes do not reach the layer.
            tol: see `lsuv_`.
            max_iter: maximum number of rescalings.
        """
        if measured is None:
            self.status = report.MISSED
            return
        self.variances.append(finite(measured.variance))
        if abs(measured.variance - 1) <= tol:
            self.status = report.CONVERGED
        elif measured.number <= 1:
            self.status = report.SINGLE
        elif not math.isfinite(measured.variance):
            self.status = report.NOT_FINITE
        elif measured.variance == 0:
            self.status = report.ZERO
        elif self.tries >= max_iter:
            self.status = report.NOT_CONVERGED
        else:
            weight = self.tensors[0]
            if self.exact is None:  # weights of 16 bits are scaled in 32, so that rounding errors do not accumulate
                self.exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
            weight.copy_(self.exact.div_(math.sqrt(measured.variance)))
            self.tries += 1
            if not torch.isfinite(weight).all():
                self.status = report.OVERFLOW

    def row(self, name: str) -> LayerReport:
        """Make the row of a finished piece."""
        variances = self.variances or [None]
        numbers = (variances[0], variances[-1], self.tries)
        return LayerReport(name, self.index, None, *numbers, self.status == report.CONVERGED, status=self.status)

    def restore(self) -> None:
        """Write back what the piece held before."""
        for tensor, values in zip(self.tensors, self.saved, strict=True):
            tensor.copy_(values)


@dataclass(slots=True)
class LayerSequence:
    """Brings the layers of one model to unit variance.

    Args:
        layers: the layers to normalise, as far as forward passes reach them.
        tol: see `lsuv_`, as for the other settings.
        max_iter: maximum number of rescalings.
        draw: draws the weights to start with. None: the model's present weights and biases.
        average: number of batches of each measurement.
        progress: called when a layer begins, with its number and the number of layers.
    """

    layers: list[WeightLayer]
    tol: float
    max_iter: int
    draw: Callable[[WeightLayer], None] | None
    average: int | None
    progress: Callable[[int, int], None] = lambda number, total: None
    rows: list[LayerReport] = field(default_factory=list, init=False)
    started: int = field(default=0, init=False)
    unfinished: dict[WeightLayer, list[Piece]] = field(default_factory=dict, init=False)
    taken: set[nn.Parameter] = field(default_factory=set, init=False)  # see `_start`

    def run(self, runner: ForwardRunner, one_pass: bool) -> list[LayerReport]:
        """Normalise all layers.

        Args:
            runner: runs the model.
            one_pass: use one forward pass, in which each layer is computed again on the same input after each
                rescaling. Otherwise each measurement takes one or more forward passes up to the layer.

        Returns:
            One row per layer and piece, in the order of the forward pass; layers that it did not reach come last.

        Raises:
            LSUVError: no layer was reached.
        """
        own = {layer.module for layer in self.layers}
        self.taken = {p for m in runner.model.modules() if m not in own for p in m.parameters(recurse=False)}
        try:
            if one_pass:
                with track_calls(self.layers, self._on_call, before_call=self._start):
                    runner()
            else:
                called: list[WeightLayer] = []
                with track_calls(self.layers, lambda layer, _: called.append(layer)):
                    runner()
                for layer in called:
                    self._start(layer)
                    measure = partial(estimate_moments, runner, layer, self.average, self.tol, self.max_iter)
                    self._normalise(layer, measure)
        finally:
            for pieces in self.unfinished.values():  # of calls that ended with an exception
                for piece in pieces:
                    piece.restore()
        reached = {row.layer for row in self.rows}
        if not reached:
            raise report.LSUVError("no linear or convolutional layer was reached by the model's forward pass")
        missed = [layer for layer in self.layers if layer.name not in reached]
        return self.rows + [
            LayerReport(layer.name, p, status=report.NOT_REACHED) for layer in missed for p in range(layer.pieces)
        ]

    def _start(self, layer: WeightLayer) -> None:
        """Save and draw the weights of a layer, unless they belong to an earlier layer or to another module."""
        self.started += 1
        self.progress(self.started, len(self.layers))
        own = set(layer.parameters())
        if own & self.taken:
            self.rows += [LayerReport(layer.name, p, status=report.SHARED) for p in range(layer.pieces)]
            return
        self.taken |= own
        pieces = self.unfinished[layer] = _pieces(layer)
        if self.draw is not None:
            self.draw(layer)
            # Memory that was never written, as after to_empty(), is not worth restoring.
            if not all(torch.isfinite(values).all() for piece in pieces for values in piece.saved):
                self.unfinished[layer] = _pieces(layer)

    def _on_call(self, layer: WeightLayer, call: Call) -> None:
        def measure(is_first: bool) -> list[Moments]:
            if not is_first:
                call.output = call.run()
            return layer_moments(layer, call)

        if self._normalise(layer, measure):
            call.output = call.run()

    def _normalise(self, layer: WeightLayer, measure: Callable[[bool], list[Moments] | None]) -> bool:
        """Bring each piece of a layer to unit variance, and add its rows. A shared weight has no pieces to normalise.

        Args:
            layer: the layer.
            measure: measures all pieces, or returns None if forward passes do not reach the layer. One measurement
                serves all pieces, because none of them is an input of another. Its argument: whether it is the first.

        Returns:
            Whether a piece could not be normalised and was restored.
        """
        pieces = unfinished = self.unfinished.get(layer, [])
        while unfinished:
            measured = measure(unfinished[0].tries == 0)
            for piece in unfinished:
                piece.update(measured[piece.index] if measured else None, self.tol, self.max_iter)
            # Finished pieces are left as they are: on the next batch they may be just outside the tolerance.
            unfinished = [piece for piece in unfinished if piece.status is None]
        restored = [piece for piece in pieces if piece.status not in (report.CONVERGED, report.NOT_CONVERGED)]
        for piece in restored:
            piece.restore()
        self.unfinished.pop(layer, None)
        self.rows += [piece.row(layer.name) for piece in pieces]
        return bool(restored)


def _pieces(layer: WeightLayer) -> list[Piece]:
    return [Piece(layer, index) for index in range(layer.pieces)]
