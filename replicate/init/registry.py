"""Initialise a model by the name of the scheme."""

import math
from collections.abc import Iterator
from dataclasses import replace

from torch import Generator, Tensor, nn

from replicate.errors import unknown
from replicate.init.layers import measuring, preactivation_variances, weight_layers
from replicate.init.lsuv import LayerReport, draw_, lsuv_
from replicate.init.schemes import SCHEMES

INITS = ("lsuv", *SCHEMES)


def initialize_(
    model: nn.Module,
    init: str,
    batches: Iterator[Tensor],
    *,
    generator: Generator | None = None,
    negative_slope: float = 0.0,
    tol: float = 0.02,
    max_iter: int = 20,
    dropout: bool = True,
) -> list[LayerReport]:
    """Initialise every weight layer of a model in place, biases to zero, and measure what came of it.

    Args:
        model: a module whose forward pass takes one batch.
        init: one of INITS.
        batches: endless; LSUV takes as many as it needs, and one more serves to measure every layer's variance.
        generator: CPU generator of the weights.
        negative_slope: of the model's activation, for OrthoNorm-MSRA scaled.
        tol: of LSUV.
        max_iter: of LSUV.
        dropout: whether dropout is active during LSUV and the measurement.

    Returns:
        A report a layer and piece, in the order of the forward pass.

    Raises:
        UsageError: unknown init.
    """
    if init == "lsuv":
        reports = lsuv_(model, batches, tol=tol, max_iter=max_iter, dropout=dropout, generator=generator)
    elif init in SCHEMES:
        draw_(weight_layers(model), SCHEMES[init], generator, negative_slope)
        reports = []
    else:
        raise unknown("init", init, INITS)
    with measuring(model, dropout):
        variances = preactivation_variances(model, next(batches))
    done = {(report.layer, report.piece): report for report in reports}
    return [
        replace(done.get(key, LayerReport(*key)), variance=variance if math.isfinite(variance) else None)
        for key, variance in variances.items()
    ]
