"""LSUV, layer-sequential unit-variance initialisation, of any model."""

import warnings
from dataclasses import replace
from functools import partial

from torch import Generator, nn
from torch.nn.parallel import DataParallel

from replicate.init.batches import Batches
from replicate.init.final import add_final, check_rows, measure_all
from replicate.init.forward import Forward, ForwardRunner, measurement_mode
from replicate.init.layers import LayerFilters
from replicate.init.measure import Passes
from replicate.init.progress import Progress, show_progress
from replicate.init.report import LSUVError, LSUVWarning, Report
from replicate.init.schemes import draw_, starting_scheme
from replicate.init.sequence import LayerSequence
from replicate.init.settings import Settings, check_arguments
from replicate.init.snapshot import Snapshot
from replicate.init.survey import Survey


def lsuv_(
    model: nn.Module,
    batches: Batches,
    *,
    tol: float = 0.02,
    max_iter: int = 20,
    std: float = 1.0,
    mean: float | None = None,
    where: str = "preactivation",
    pre_init: str | None = "orthonormal",
    dropout: bool = True,
    generator: Generator | None = None,
    layers: LayerFilters = None,
    frozen: bool = False,
    forward: Forward | None = None,
    average: int | None = None,
    check: int = 32,
    strict: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Initialise a model by LSUV, in place.

    The weight layers that a forward pass reaches get orthonormal weights and zero biases. Then the weights of each
    layer, in the order of the forward pass, are divided by √var until the variance of its pre-activation, over all
    values of a batch, is 1. A layer that is called several times is normalised at its first call. Source: released
    code, tools/extra/lsuv_init.py.

    A weight layer is a parameter, or a slice of one, that a linear or bilinear map, a convolution, a matrix product or
    an Einstein sum applies, in whatever module. Each piece of a maxout layer is normalised separately. So are query,
    key and value of attention, and the gates of LSTM and GRU at the product of their weights with the input. Recurrent
    weights are drawn and not rescaled [ours]. Under weight_norm the magnitude is rescaled. Weights that other
    parametrisations compute, frozen ones, and those that the forward pass uses in other ways are left as they are and
    named in the report.

    Only weights and biases change, and they keep their storage. Training flags, buffers, gradients, hooks, precision
    flags and, with a `generator`, torch's own random streams are restored. After an exception or an interrupt, the
    weights are as they were before; for this, a copy of them is kept. Arithmetic is in float32 or the model's own
    dtype; autocast around the call and TF32 are off. Compiled models run uncompiled. Initialise a model before you wrap
    it in DistributedDataParallel, which gives every process the weights of rank 0.

    Cost: with one batch and dropout=False, two forward passes; the first computes each layer again after each
    rescaling. Otherwise one forward pass; then several per layer, which end at that layer, each on a fresh batch (as
    many as the scatter requires; with `average=1` one more than there are rescalings); then `check` whole ones.

    Args:
        model: any module; it may be wrapped by torch.compile or DataParallel.
        batches: one batch, used for every forward pass: a tensor (n, …), a tuple of positional arguments, a mapping of
            keyword arguments, or a list of tensors (n, …), as a DataLoader gives it. A callable makes a batch for each
            forward pass; an iterable gives one for each and is started again when it ends. If a batch has more parts
            than the model takes, such as labels, the model gets the first.
        tol: a layer is done if |variance / std² - 1| <= tol. The tolerance applies to the variance, not to its root, as
            in the released code.
        max_iter: maximum number of rescalings per layer.
        std: target standard deviation of each layer.
        mean: target mean of each layer, reached within tol times std by adding a constant to its bias. None, as in the
            paper: the mean is not changed. Layers without a bias keep their mean.
        where: "preactivation", as in the paper, or "activation": measure what the activation after a layer returns, if
            one follows. Activations of bounded range, such as tanh, cannot reach every std.
        pre_init: scheme that draws the starting weights. None: start from the model's present weights and biases.
        dropout: run the forward passes in training mode, as the released code does. False: in evaluation mode, where
            batch normalisation uses its running statistics.
        generator: draws the starting weights. None: torch's own generator, on the device of the weights. Dropout always
            draws from torch's own.
        layers: which weight layers to initialise: a type of module, a pattern of names such as "encoder.*", a predicate
            of name and module, or several of these; None: all.
        frozen: also initialise parameters that do not require gradients.
        forward: how to run the model on a batch, if the default does not fit: lambda model, batch: model(batch[0]).
        average: each measurement of a layer is the mean variance of that many fresh batches. 1 is the released code's
            loop, in which a layer may pass by chance if the variance of one batch scatters by more than tol. None: as
            many as needed until the mean is known within tol (its 95 % interval), at most 64.
        check: at the end, measure the mean variance of every layer over that many further batches, and report the
            layers that are off by more than 2.5 tol; 0: do not. With one batch and dropout=False, every layer is
            measured once more on that batch.
        strict: raise an error instead of giving a warning.
        progress: called when a layer begins, with its number and the number of layers. None: if it takes more than two
            seconds, a progress bar is shown on a terminal.

    Returns:
        One row per layer and piece. Layers that could not be brought to unit variance, because their output has no
        positive, finite variance or does not depend on the scale of the weight, have the weights and biases back that
        they had before. Layers that were left as they were or not reached have a row too.

    Raises:
        LSUVError: an argument is of the wrong type or out of range; there is no batch, or it is unclear how the model
            takes it; the forward pass reaches no weight layer; a parameter has no values yet (meta device, lazy
            modules); the model is wrapped in DistributedDataParallel; or strict, and there is a reason for a warning.

    Warns:
        LSUVWarning: a layer was restored, did not converge or was scaled by more than 1,000; or more than half of the
            model's parameters are weights that were left as they were.
    """
    settings = Settings(tol, max_iter, average, check, std, mean, where)
    check_arguments(dropout, generator, progress)
    scheme = starting_scheme(pre_init)
    draw = partial(draw_, scheme=scheme, generator=generator) if scheme else None
    passes = passes_of(model, batches, settings, layers, frozen, forward)
    repeatable = passes.runner.single_batch and not dropout
    if repeatable:
        settings = replace(settings, average=1, check=1)
    with show_progress(progress) as on_start:
        sequence = LayerSequence(passes, draw, on_start)
        with sequence.undone_on_error():
            with measurement_mode(passes.survey.model, dropout, generator):
                rows = sequence.normalise(settings, one_pass=repeatable and not passes.after_activation)
                rows = add_final(rows, measure_all(passes, settings.check))
                rows = check_rows(rows, passes, settings, repeatable)
            count, left = passes.runner.count, sequence.share_left()
            return warn_or_raise(Report(tuple(rows), dropout, count, settings.check, left), strict)


def measure(
    model: nn.Module,
    batches: Batches,
    *,
    dropout: bool = True,
    layers: LayerFilters = None,
    forward: Forward | None = None,
    check: int = 32,
    where: str = "preactivation",
) -> Report:
    """Measure the variance of each weight layer, as `lsuv_` does at its end, and change nothing.

    Args:
        model: any module.
        batches, dropout, forward, where: see `lsuv_`.
        layers: which weight layers to measure: see `lsuv_`.
        check: number of batches. With one batch and dropout=False, that batch is measured once.

    Returns:
        One row per layer and piece, with `variance` and `mean`.

    Raises:
        LSUVError: see `lsuv_`.
    """
    check_arguments(dropout)
    settings = Settings(check=check, where=where)
    if check < 1:
        raise LSUVError(f"check={check!r} is out of range; give a whole number of at least 1")
    passes = passes_of(model, batches, settings, layers, frozen=True, forward=forward)
    count = 1 if passes.runner.single_batch and not dropout else settings.check
    snapshot, sequence = Snapshot(passes.survey.model), LayerSequence(passes, draw=None)
    try:
        with measurement_mode(passes.survey.model, dropout, Generator()):
            if passes.after_activation:
                passes.run()  # finds the activations
            final = measure_all(passes, count, before_call=sequence.start)
    finally:
        snapshot.restore()
    return Report(tuple(add_final(sequence.rows(), final)), dropout, passes.runner.count, count)


def passes_of(
    model: nn.Module, batches: Batches, settings: Settings, layers: LayerFilters, frozen: bool, forward: Forward | None
) -> Passes:
    """Make the forward passes in which a model's layers are measured; the other arguments are those of `lsuv_`."""
    bare = _unwrapped(model)
    survey = Survey(bare, layers, frozen)
    runner = ForwardRunner(bare if forward is None else model, batches, forward)
    return Passes(survey, runner, after_activation=settings.where == "activation")


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile and DataParallel."""
    inner = model.module if isinstance(model, DataParallel) else getattr(model, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def warn_or_raise(report: Report, strict: bool = False) -> Report:
    """Give a warning if layers have problems; if strict, raise LSUVError."""
    if problems := report.problems():
        if strict:
            raise LSUVError(f"LSUV: {problems}")
        warnings.warn(f"LSUV: {problems}", LSUVWarning, stacklevel=3)
    return report
