"""LSUV: layer-sequential unit-variance initialisation."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from replicate.init.layers import WeightLayer, forward_order, measuring, variances_at
from replicate.init.schemes import Scheme, orthonormal

Batches = Tensor | Iterable[Tensor]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What an initialisation did to one weight layer, or to one piece of a maxout layer.

    Args:
        layer: the module's name in its model.
        piece: index of the maxout piece, else 0.
        variance: of the pre-activation, on one fresh batch after the whole model was initialised; None where it was not
            measured, or overflows float32.
        variance_before: LSUV: before its first rescaling. None for the other initialisations, as are all below.
        variance_after: LSUV: on the batch that its loop saw last.
        tries: LSUV: how often the weights were rescaled.
        converged: LSUV: whether |variance_after - 1| <= tol.
    """

    layer: str
    piece: int
    variance: float | None = None
    variance_before: float | None = None
    variance_after: float | None = None
    tries: int | None = None
    converged: bool | None = None


def lsuv_(
    model: nn.Module,
    batches: Batches,
    *,
    tol: float = 0.02,
    max_iter: int = 20,
    dropout: bool = True,
    generator: Generator | None = None,
) -> list[LayerReport]:
    """Initialise a model by LSUV, in place.

    The weight layers that a forward pass reaches get orthonormal weights and zero biases. Then each, in the order of
    the forward pass, has its weights divided by √var until the variance of its pre-activation over a batch is 1. Each
    maxout piece is a layer of its own. Nothing but weights and biases changes; layers that are not reached stay as they
    are. Source: released code, tools/extra/lsuv_init.py.

    Args:
        model: any module that maps a batch to anything; weight layers are linear and convolutional ones.
        batches: a tensor (n, …), the same for every forward pass, or an iterable of such tensors, one for each; when it
            ends it is started again.
        tol: a layer is done at |variance - 1| <= tol. The margin is on the variance, not on its root, as in the
            released code.
        max_iter: a layer is rescaled at most that often.
        dropout: run the forward passes in training mode, as the released code does; False: in evaluation mode.
        generator: CPU generator of the orthonormal matrices. Dropout draws from torch's global one.

    Returns:
        A report a layer and piece, in the order of the forward pass. A layer without a positive, finite variance keeps
        its weights and is reported as not converged.

    Raises:
        ValueError: no batch, or no weight layer that the forward pass reaches.
    """
    feed = _endless(batches)
    reports: list[LayerReport] = []
    with measuring(model, dropout):
        layers = forward_order(model, next(feed))
        if not layers:
            raise ValueError("no linear or convolutional layer was reached by the model's forward pass")
        draw_(layers, orthonormal, generator)
        for layer in layers:
            reports += _normalise_(model, layer, feed, tol, max_iter)
    return reports


def draw_(layers: Iterable[WeightLayer], scheme: Scheme, generator: Generator | None, slope: float = 0.0) -> None:
    """Draw the weights of these layers by a scheme, each maxout piece on its own, and set their biases to zero."""
    for layer in layers:
        for piece in range(layer.pieces):
            weight = layer.weight(piece)
            weight.copy_(scheme(tuple(weight.shape), generator, slope))
        layer.zero_bias_()


def _normalise_(
    model: nn.Module, layer: WeightLayer, feed: Iterator[Tensor], tol: float, max_iter: int
) -> list[LayerReport]:
    """Bring each piece of one layer to unit variance.

    The pieces share the forward passes: none of them is an input of another, so each sees what it would see alone.
    """
    before = after = variances_at(model, layer, next(feed))
    tries = [0] * layer.pieces

    def done(piece: int) -> bool:
        return abs(after[piece] - 1) <= tol

    while open_ := [p for p in range(layer.pieces) if not done(p) and tries[p] < max_iter and _usable(after[p])]:
        for piece in open_:
            layer.weight(piece).div_(math.sqrt(after[piece]))
            tries[piece] += 1
        fresh = variances_at(model, layer, next(feed))
        # A piece that is done stays as it was measured: the next batch may put any layer just outside the margin again.
        after = [fresh[p] if p in open_ else after[p] for p in range(layer.pieces)]
    return [
        LayerReport(layer.name, p, None, _finite(before[p]), _finite(after[p]), tries[p], done(p))
        for p in range(layer.pieces)
    ]


def _usable(variance: float) -> bool:
    return 0 < variance < math.inf  # False for NaN as well


def _finite(variance: float) -> float | None:
    return variance if math.isfinite(variance) else None


def _endless(batches: Batches) -> Iterator[Tensor]:
    if isinstance(batches, Tensor):
        yield from itertools.repeat(batches)
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("the batches came to an end; give a tensor, a list or an endless iterator")
