"""LSUV's loop: one layer after the other in the order of their calls, each piece to unit variance."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from replicate.init import report as r
from replicate.init.errors import LSUVError
from replicate.init.feed import Feed
from replicate.init.layers import Call, WeightLayer
from replicate.init.looks import Looks
from replicate.init.passes import forward_order, hooked, preactivations
from replicate.init.report import LayerReport
from replicate.init.schemes import Scheme
from replicate.init.variance import Moments, moments

Look = Callable[[], list[Moments] | None]
_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class Settings:
    """How each layer is treated: see `lsuv_`."""

    tol: float
    max_iter: int
    scheme: Scheme | None
    generator: Generator | None
    average: int | None = 1


def draw_(layer: WeightLayer, scheme: Scheme, generator: Generator | None, slope: float = 0.0) -> None:
    """Draw a layer's weights by a scheme, each piece and each group on its own, and set its bias to zero."""
    for piece in range(layer.pieces):
        for block in layer.blocks(piece):
            block.copy_(scheme(tuple(block.shape), generator, slope))
    for bias in layer.biases():
        bias.detach().zero_()


class LayerSequence:
    """Normalises the layers of one model.

    Args:
        model: bare of wrappers.
        layers: those to normalise, as far as forward passes reach them.
        settings: of the loop.
    """

    def __init__(self, model: nn.Module, layers: list[WeightLayer], settings: Settings) -> None:
        self.layers = layers
        self.settings = settings
        self._holders: dict[int, set[nn.Module]] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                self._holders.setdefault(id(parameter), set()).add(module)
        self._rows: list[LayerReport] = []
        self._order = 0
        self._reached: list[WeightLayer] = []
        self._taken: set[int] = set()
        self._in_hand: dict[WeightLayer, list[list[Tensor]]] = {}

    def run(self, feed: Feed, one_pass: bool) -> list[LayerReport]:
        """Normalise all layers.

        Args:
            feed: runs the model.
            one_pass: in one forward pass, each layer again and again on the input it got; else each time with a forward
                pass of its own, up to that layer.

        Returns:
            A row a layer and piece, in the order of the forward pass; the layers that were not reached come last.

        Raises:
            LSUVError: no layer was reached.
        """
        try:
            if one_pass:
                self._run_one_pass(feed)
            else:
                self._run_passes(feed)
        except BaseException:
            for layer in list(self._in_hand):
                self._restore(layer, range(layer.pieces))
            raise
        if not self._reached:
            raise LSUVError("no linear or convolutional layer was reached by the model's forward pass")
        missed = [layer for layer in self.layers if layer not in self._reached]
        return self._rows + [
            LayerReport(layer.name, p, status=r.NOT_REACHED) for layer in missed for p in range(layer.pieces)
        ]

    def _run_one_pass(self, feed: Feed) -> None:
        def settle(layer: WeightLayer, call: Call) -> None:
            if layer not in self._in_hand:
                return
            runs = 0

            def look() -> list[Moments]:
                nonlocal runs
                if runs:
                    call.again()
                runs += 1
                return [moments(values) for values in layer.values(call)]

            if self._settle(layer, look):
                call.again()

        with hooked(self.layers, settle, self._begin):
            feed()

    def _run_passes(self, feed: Feed) -> None:
        average, tol, chances = self.settings.average, self.settings.tol, self.settings.max_iter
        for layer in forward_order(feed, self.layers):
            self._begin(layer)
            if layer in self._in_hand:
                self._settle(layer, Looks(feed, layer, average, tol, chances))

    def _begin(self, layer: WeightLayer) -> None:
        """Take a layer in hand: keep what it holds and draw its weights. Not if its weight belongs to others."""
        self._reached.append(layer)
        own = {id(parameter) for parameter in layer.parameters()}
        others = set[nn.Module]().union(*(self._holders.get(key, set()) for key in own)) - {layer.module}
        if own & self._taken or others - {other.module for other in self.layers}:
            self._order += 1
            rows = (LayerReport(layer.name, p, order=self._order, status=r.SHARED) for p in range(layer.pieces))
            self._rows += rows
            return
        self._taken |= own
        self._in_hand[layer] = _copies(layer)
        if self.settings.scheme is not None:
            draw_(layer, self.settings.scheme, self.settings.generator)
            # Memory that was never written, as after to_empty(), is nothing to go back to.
            if not all(torch.isfinite(tensor).all() for piece in self._in_hand[layer] for tensor in piece):
                self._in_hand[layer] = _copies(layer)

    def _settle(self, layer: WeightLayer, look: Look) -> bool:
        """Bring each piece of one layer to unit variance; say whether one had to be restored.

        The pieces share the forward passes: none of them is an input of another, so each sees what it would see alone.
        """
        pieces = range(layer.pieces)
        # Weights of 16 bits are scaled in 32, or each rescaling would round them anew.
        wide = [w if w.dtype in _WIDE else w.float() for w in map(layer.weight, pieces)]
        first = look()
        before = now = first or [Moments(0, math.nan)] * layer.pieces
        tries = [0] * layer.pieces
        status = [r.MISSED if first is None else self._status(one, 0) for one in now]
        while open_ := [p for p in pieces if status[p] is None]:
            for p in open_:
                wide[p].div_(math.sqrt(now[p].variance))
                weight = layer.weight(p).copy_(wide[p]) if wide[p].dtype != layer.weight(p).dtype else wide[p]
                tries[p] += 1
                if not torch.isfinite(weight).all():
                    status[p] = r.OVERFLOW
            if not (open_ := [p for p in open_ if status[p] is None]):
                break
            fresh = look()
            # A piece that is done stays as measured: the next batch may put any layer just outside the margin again.
            now = [fresh[p] if fresh and p in open_ else now[p] for p in pieces]
            for p in open_:
                status[p] = r.MISSED if fresh is None else self._status(now[p], tries[p])
        vain = [p for p in pieces if status[p] not in (r.CONVERGED, r.NOT_CONVERGED)]
        self._restore(layer, vain)
        self._order += 1
        for p in pieces:
            variances = (_finite(before[p].variance), _finite(now[p].variance))
            done = status[p] == r.CONVERGED
            self._rows.append(LayerReport(layer.name, p, None, *variances, tries[p], done, self._order, status[p]))
        return bool(vain)

    def _status(self, measured: Moments, tries: int) -> str | None:
        """Say what has become of a piece; None: it is to be rescaled."""
        if abs(measured.variance - 1) <= self.settings.tol:
            return r.CONVERGED
        if measured.number <= 1:
            return r.SINGLE
        if not math.isfinite(measured.variance):
            return r.NOT_FINITE
        if measured.variance == 0:
            return r.ZERO
        return r.NOT_CONVERGED if tries >= self.settings.max_iter else None

    def _restore(self, layer: WeightLayer, pieces: "list[int] | range") -> None:
        """Give pieces of the layer in hand back what they held, and put the layer down."""
        kept = self._in_hand.pop(layer)
        for p in pieces:
            for tensor, held in zip(layer.tensors(p), kept[p], strict=True):
                tensor.copy_(held)


def with_variances(rows: list[LayerReport], layers: list[WeightLayer], feed: Feed, count: int) -> list[LayerReport]:
    """Measure the mean variance of every layer over so many further batches.

    Args:
        rows: to be completed; where there are none, one is made for each layer and piece that a forward pass reaches.
        layers: those to measure.
        feed: runs the model.
        count: how many batches.

    Returns:
        The rows, with `variance`.
    """
    sums: dict[tuple[str, int], list[float]] = {}
    for _ in range(count):
        for layer, pieces in preactivations(feed, layers).items():
            for p, measured in enumerate(pieces):
                sums.setdefault((layer.name, p), []).append(measured.variance)
    means = {key: _finite(sum(found) / len(found)) for key, found in sums.items()}
    if not rows:
        order = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in means), 1)}
        return [LayerReport(*key, mean, order=order[key[0]]) for key, mean in means.items()]
    return [replace(row, variance=means.get((row.layer, row.piece))) for row in rows]


def held(row: LayerReport, tol: float, fixed: bool) -> LayerReport:
    """Say whether a layer that reached unit variance has it still when all is done.

    Args:
        row: with its `variance`, where that was measured.
        tol: LSUV's margin. Over further batches a mean may be off by 2.5 times as much: 0.05 by default [ours].
        fixed: whether `variance` was measured on the batch that the layer was normalised on.
    """
    if not row.converged or (row.variance is None and not fixed):
        return row
    # The same computation again may differ by a rounding on some devices.
    if abs((row.variance or 0) - 1) <= (tol + 1e-4 if fixed else 2.5 * tol):
        return row
    return replace(row, converged=False, status=r.UNSTABLE if fixed else r.SCATTERS)


def _copies(layer: WeightLayer) -> list[list[Tensor]]:
    return [[tensor.clone() for tensor in layer.tensors(p)] for p in range(layer.pieces)]


def _finite(variance: float) -> float | None:
    # As far as float32 reaches: beyond, a net has exploded, and a record says so by saying nothing.
    return variance if abs(variance) <= torch.finfo(torch.float32).max else None
