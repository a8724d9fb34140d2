"""Initialise a model by the name of an initialisation, or by a function."""

from functools import partial
from typing import Any

from torch import Generator, nn

from replicate.errors import unknown
from replicate.init.batches import Batches
from replicate.init.final import add_final, measure_all
from replicate.init.forward import measurement_mode
from replicate.init.lsuv import passes_of, warn_or_raise
from replicate.init.model_inits import ModelInit, apply_, takes_model, zero_biases
from replicate.init.progress import Progress, show_progress
from replicate.init.report import Report
from replicate.init.schemes import Scheme, draw_, starting_scheme
from replicate.init.sequence import LayerSequence
from replicate.init.settings import Settings, check_arguments
from replicate.names import INITS, resolve


def initialize_(
    model: nn.Module,
    init: str | Scheme | ModelInit,
    batches: Batches,
    *,
    generator: Generator | None = None,
    negative_slope: float = 0.0,
    start: str = "orthonormal",
    tol: float = 0.02,
    max_iter: int = 20,
    dropout: bool = True,
    progress: Progress | None = None,
) -> Report:
    """Initialise every weight layer that a forward pass reaches, biases to zero, and measure the variances.

    Args:
        model: a module whose forward pass takes one batch.
        init: one of INITS, or a function of this kind: see `Scheme` and `ModelInit`.
        batches: see `lsuv_`. LSUV and model initialisations take as many as they need; one more is used to measure the
            variance of each layer, and one before a model initialisation to find the layers.
        generator: draws the weights. If it is given, torch's global streams are restored afterwards.
        negative_slope: of the model's activation, for OrthoNorm-MSRA scaled.
        start: the scheme of INITS that draws the weights with which LSUV starts.
        tol, max_iter: see `lsuv_`.
        dropout: whether dropout is active during the initialisation and the measurement.
        progress: called when a layer begins, with its number and the number of layers; None: see `lsuv_`. Model
            initialisations do not say where they are.

    Returns:
        One row per layer and piece, in the order of the forward pass.

    Raises:
        UsageError: unknown init.
        LSUVError: a layer cannot be initialised: see `lsuv_`; or a model initialisation changes something else.
    """
    if not (callable(init) or (isinstance(init, str) and init in INITS)):
        raise unknown("init", init, INITS)
    check_arguments(dropout, generator, progress)
    settings = Settings(tol, max_iter, average=1)
    if init == "lsuv":
        starting_scheme(start, "start")  # refuses what is no scheme
    function: Any = init if callable(init) else resolve(INITS[start if init == "lsuv" else init])
    on_model = takes_model(function)
    draw = partial(draw_, scheme=function, generator=generator, negative_slope=negative_slope)
    passes = passes_of(model, batches, settings, layers=None, frozen=False, forward=None)
    with show_progress(progress) as on_start:
        sequence = LayerSequence(passes, zero_biases) if on_model else LayerSequence(passes, draw, on_start)
        with sequence.undone_on_error():
            if on_model:
                apply_(function, sequence, dropout, generator)
            with measurement_mode(passes.survey.model, dropout, generator):
                if init == "lsuv":
                    rows = sequence.normalise(settings, one_pass=passes.runner.single_batch and not dropout)
                    final = measure_all(passes, 1)
                elif on_model:
                    final, rows = measure_all(passes, 1), sequence.rows()
                else:
                    final = measure_all(passes, 1, before_call=sequence.start)
                    rows = sequence.rows()
                    if any(layer.computed for layer in passes.survey.selected()):  # computed before it was drawn
                        final = measure_all(passes, 1)
            rows = add_final(rows, final)
            return warn_or_raise(Report(tuple(rows), dropout, passes.runner.count, 1, sequence.share_left()))
