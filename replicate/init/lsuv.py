"""LSUV, layer-sequential unit-variance initialisation, and initialisation by the name of a scheme."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from torch import Generator, nn
from torch.nn.parallel import DataParallel

from replicate.errors import unknown
from replicate.init.forward import Batches, Forward, ForwardRunner, measurement_mode
from replicate.init.layers import Call, LayerFilter, WeightLayer, select_layers
from replicate.init.measure import finite, layer_moments, track_calls
from replicate.init.report import NOT_REACHED, SCATTERS, UNSTABLE, LayerReport, LSUVError, LSUVWarning, Report
from replicate.init.schemes import draw_
from replicate.init.sequence import LayerSequence
from replicate.names import INITS, resolve


def lsuv_(
    model: nn.Module,
    batches: Batches,
    *,
    tol: float = 0.02,
    max_iter: int = 20,
    pre_init: str | None = "orthonormal",
    dropout: bool = True,
    generator: Generator | None = None,
    layers: LayerFilter | Iterable[LayerFilter] | None = None,
    forward: Forward | None = None,
    average: int | None = None,
    check: int = 32,
    strict: bool = False,
) -> Report:
    """Initialise a model by LSUV, in place.

    The weight layers that a forward pass reaches get orthonormal weights and zero biases. Then the weights of each
    layer, in the order of the forward pass, are divided by √var until the variance of its pre-activation, over all
    values of a batch, is 1. A layer that is called several times is normalised at its first call. Source: released
    code, tools/extra/lsuv_init.py.

    Weight layers are `nn.Linear`, `nn.Bilinear`, convolutions (also transposed and grouped), maxout layers and the
    projections of `nn.MultiheadAttention`. Each piece of a maxout layer is normalised separately, and so are query, key
    and value.

    Only weights and biases change, and they keep their storage. Training flags, buffers, gradients, hooks, precision
    flags and, with a `generator`, torch's own random streams are restored. Arithmetic is in float32 or the model's own
    dtype; autocast and TF32 are off. Compiled models run uncompiled. Initialise a model before you wrap it in
    DistributedDataParallel, which gives every process the weights of rank 0.

    Cost: with one batch (a tensor, tuple or mapping) and dropout=False, two forward passes, in the first of which each
    layer is computed again after each rescaling. Otherwise one forward pass; then several per layer, each of which
    takes a fresh batch and ends at that layer (with `average=1` one more than the layer is rescaled, by default as many
    as the scatter requires); then `check` whole ones.

    Args:
        model: any module; it may be wrapped by torch.compile or DataParallel.
        batches: a tensor (n, …), a tuple of positional arguments or a mapping of keyword arguments is one batch, used
            for every forward pass. A callable makes a batch for each; an iterable gives one for each and is started
            again when it ends.
        tol: a layer is done if |variance - 1| <= tol. The tolerance applies to the variance, not to its root, as in the
            released code.
        max_iter: maximum number of rescalings per layer.
        pre_init: scheme of the weights to start with; None: the model's present weights and biases.
        dropout: run the forward passes in training mode, as the released code does. False: in evaluation mode, where
            batch normalisation uses its running statistics.
        generator: generator of the orthonormal matrices. Dropout draws from torch's global one.
        layers: which weight layers to initialise: a type, a pattern of names such as "encoder.*", a predicate of name
            and module, or several of these; None: all.
        forward: runs the model on a batch, if `model(batch)`, `model(*batch)` or `model(**batch)` does not:
            lambda model, batch: model(batch[0]).
        average: each measurement of a layer is the mean variance of that many fresh batches. 1 is the released code's
            loop, in which a layer may pass by chance if the variance of one batch scatters by more than tol. None: as
            many as needed until the mean is known within tol (its 95 % interval), at most 64.
        check: at the end, measure the mean variance of every layer over that many further batches, and report the
            layers that are off by more than 2.5 tol; 0: do not. With one batch and dropout=False, every layer is
            measured once more on that batch.
        strict: raise an error instead of giving a warning.

    Returns:
        One row per layer and piece. Layers without positive, finite variance have the weights and biases back that they
        had before. Layers that were not reached, and those whose weight belongs to an earlier layer or to a module of
        another kind (an embedding), are unchanged; they have a row too.

    Raises:
        LSUVError: there is no batch; no weight layer that a forward pass reaches; a layer that cannot be initialised
            (its weight is parametrised, on the meta device, or has no shape yet); the model is wrapped in
            DistributedDataParallel; or strict, and a layer did not reach unit variance (the others are initialised).
        UsageError: unknown pre_init.

    Warns:
        LSUVWarning: a layer was restored or did not converge.
    """
    schemes = [name for name in INITS if name != "lsuv"]
    if pre_init is not None and pre_init not in schemes:
        raise unknown("pre_init", pre_init, schemes)
    draw = partial(draw_, scheme=resolve(INITS[pre_init]), generator=generator) if pre_init else None
    bare = _unwrapped(model)
    selected = select_layers(bare, layers)
    runner = ForwardRunner(bare if forward is None else model, batches, forward)
    one_pass = runner.single_batch and not dropout
    count = 1 if one_pass else check
    with measurement_mode(bare, dropout, generator):
        sequence = LayerSequence(selected, tol, max_iter, draw, average)
        rows = _measured(sequence.run(runner, one_pass), selected, runner, count)
    rows = [_recheck(row, tol, one_pass) for row in rows]
    return _warn_or_raise(Report(tuple(rows), dropout, runner.passes, count), strict)


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
    progress: Callable[[int, int], None] = lambda number, total: None,
) -> Report:
    """Initialise every weight layer of a model in place, biases to zero, and measure the resulting variances.

    Args:
        model: a module whose forward pass takes one batch.
        init: one of INITS.
        batches: as for `lsuv_`. LSUV takes as many as it needs; one more is used to measure the variance of each layer.
        generator: source of the weights; if it is given, torch's global streams are restored afterwards.
        negative_slope: of the model's activation, for OrthoNorm-MSRA scaled.
        tol: of LSUV.
        max_iter: of LSUV.
        dropout: whether dropout is active during LSUV and the measurement.
        progress: called when LSUV begins a layer, with its number and the number of layers.

    Returns:
        One row per layer and piece, in the order of the forward pass.

    Raises:
        UsageError: unknown init.
        LSUVError: a layer cannot be initialised: see `lsuv_`.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    draw = partial(draw_, scheme=resolve(INITS[init]), generator=generator, negative_slope=negative_slope)
    layers, runner = select_layers(model), ForwardRunner(model, batches)
    rows: list[LayerReport] = []
    with measurement_mode(model, dropout, generator):
        if init == "lsuv":
            sequence = LayerSequence(layers, tol, max_iter, draw, average=1, progress=progress)
            rows = sequence.run(runner, one_pass=runner.single_batch and not dropout)
        else:
            for layer in layers:
                draw(layer)
        rows = _measured(rows, layers, runner, 1)
    return _warn_or_raise(Report(tuple(rows), dropout, runner.passes, 1))


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile and DataParallel."""
    inner = model.module if isinstance(model, DataParallel) else getattr(model, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model


def _measured(
    rows: list[LayerReport], layers: list[WeightLayer], runner: ForwardRunner, batches: int
) -> list[LayerReport]:
    """Add `order` and `variance`, the mean over further batches. Without rows, make one per layer and piece reached."""
    found: dict[tuple[str, int], list[float]] = {}

    def on_call(layer: WeightLayer, call: Call) -> None:
        for piece, moments in enumerate(layer_moments(layer, call)):
            found.setdefault((layer.name, piece), []).append(moments.variance)

    for _ in range(batches):
        with track_calls(layers, on_call):
            runner()
    means = {key: finite(sum(variances) / len(variances)) for key, variances in found.items()}
    rows = rows or [LayerReport(*key) for key in means]
    reached = dict.fromkeys(row.layer for row in rows if row.status != NOT_REACHED)
    order = {name: number for number, name in enumerate(reached, 1)}
    return [replace(row, variance=means.get((row.layer, row.piece)), order=order.get(row.layer)) for row in rows]


def _recheck(row: LayerReport, tol: float, one_pass: bool) -> LayerReport:
    """Correct the status of a layer that had reached unit variance but does not have it at the end.

    Args:
        row: with its `variance`, if that was measured.
        tol: LSUV's tolerance. The mean over further batches may be off by 2.5 times as much: 0.05 by default [ours].
        one_pass: whether `variance` was measured on the batch on which the layer was normalised.
    """
    if not row.converged or (row.variance is None and not one_pass):
        return row
    # On some devices the same computation may differ by a rounding.
    if abs((row.variance or 0) - 1) <= (tol + 1e-4 if one_pass else 2.5 * tol):
        return row
    return replace(row, converged=False, status=UNSTABLE if one_pass else SCATTERS)


def _warn_or_raise(report: Report, strict: bool = False) -> Report:
    """Warn of the layers that were restored or did not converge, or raise an error if strict."""
    if problems := report.problems():
        if strict:
            raise LSUVError(f"LSUV: {problems}")
        warnings.warn(f"LSUV: {problems}", LSUVWarning, stacklevel=3)
    return report
