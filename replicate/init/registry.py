"""Initialise a model by the name of the scheme."""

from torch import Generator, nn

from replicate.errors import unknown
from replicate.init.choice import select
from replicate.init.feed import Batches, Feed
from replicate.init.lsuv import complain, own_stream
from replicate.init.measure import measuring
from replicate.init.report import LayerReport, Report
from replicate.init.schemes import SCHEMES
from replicate.init.sequence import LayerSequence, Settings, draw_, with_variances

INITS = ("lsuv", *SCHEMES)


def initialize_(
    model: nn.Module,
    init: str,
    batches: Batches,
    *,
    generator: Generator | None = None,
    negative_slope: float = 0.0,
    tol: float = 0.02,
    max_iter: int = 20,
    dropout: bool = True,
) -> Report:
    """Initialise every weight layer of a model in place, biases to zero, and measure what came of it.

    Args:
        model: a module whose forward pass takes one batch.
        init: one of INITS.
        batches: as for `lsuv_`; LSUV takes as many as it needs, and one more serves to measure every layer's variance.
        generator: of the weights; if there is one, torch's global streams are put back afterwards.
        negative_slope: of the model's activation, for OrthoNorm-MSRA scaled.
        tol: of LSUV.
        max_iter: of LSUV.
        dropout: whether dropout is active during LSUV and the measurement.

    Returns:
        A report a layer and piece, in the order of the forward pass.

    Raises:
        UsageError: unknown init.
        LSUVError: a layer cannot be initialised: see `lsuv_`.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    layers, feed = select(model, None), Feed(model, batches)
    rows: list[LayerReport] = []
    with measuring(model, dropout, keep_rng=own_stream(generator)):
        if init == "lsuv":
            settings = Settings(tol, max_iter, SCHEMES["orthonormal"], generator)
            rows = LayerSequence(model, layers, settings).run(feed, feed.fixed and not dropout)
        else:
            for layer in layers:
                draw_(layer, SCHEMES[init], generator, negative_slope)
        rows = with_variances(rows, layers, feed, 1)
    report = Report(tuple(rows), dropout, feed.passes, 1)
    complain(report)
    return report
