"""LSUV: layer-sequential unit-variance initialisation."""

import warnings

import torch
from torch import Generator, nn
from torch.nn.parallel import DataParallel

from replicate.errors import unknown
from replicate.init.choice import Layers, select
from replicate.init.errors import LSUVError, LSUVWarning
from replicate.init.feed import Batches, Feed, Forward
from replicate.init.measure import measuring
from replicate.init.report import Report
from replicate.init.schemes import SCHEMES
from replicate.init.sequence import LayerSequence, Settings, held, with_variances


def lsuv_(
    model: nn.Module,
    batches: Batches,
    *,
    tol: float = 0.02,
    max_iter: int = 20,
    pre_init: str | None = "orthonormal",
    dropout: bool = True,
    generator: Generator | None = None,
    layers: Layers | None = None,
    forward: Forward | None = None,
    average: int | None = None,
    check: int = 32,
    strict: bool = False,
) -> Report:
    """Initialise a model by LSUV, in place.

    The weight layers that a forward pass reaches get orthonormal weights and zero biases. Then each, in the order of
    the forward pass, has its weights divided by √var until the variance of its pre-activation over a batch is 1, all
    values together. A layer that is called several times is normalised at its first call. Source: released code,
    tools/extra/lsuv_init.py.

    Weight layers are `nn.Linear`, `nn.Bilinear`, (transposed, grouped) convolutions, maxout layers and the projections
    of `nn.MultiheadAttention`. Each piece of a maxout layer, each of query, key and value, is a layer of its own.

    Nothing but weights and biases changes, and they keep their storage: training flags, buffers, gradients, hooks,
    precision flags, and with a `generator` also torch's own random streams, are put back. Arithmetic is float32, or the
    model's own dtype; autocast and TF32 are off. Compiled models are run as they were written. Initialise a model
    before you wrap it in DistributedDataParallel, which gives every process the weights of rank 0.

    Cost: with one batch (a tensor, tuple or mapping) and dropout=False, two forward passes, in the first of which each
    layer is computed again after each rescaling. Else one forward pass; then for each layer some, each of which takes a
    fresh batch and ends at that layer: with `average=1` one more than the layer is rescaled, by default as many as the
    scatter asks for; then `check` whole ones.

    Args:
        model: any module; it may be wrapped by torch.compile or DataParallel.
        batches: a tensor (n, …), a tuple of positional or a mapping of keyword arguments is one batch, the same for
            every forward pass. A callable makes a batch for each; an iterable gives one for each and is started again
            when it ends.
        tol: a layer is done at |variance - 1| <= tol. The margin is on the variance, not on its root, as in the
            released code.
        max_iter: a layer is rescaled at most that often.
        pre_init: scheme of the weights to begin with; None: those that the model has, with their biases.
        dropout: run the forward passes in training mode, as the released code does; False: in evaluation mode, batch
            normalisation with its running statistics.
        generator: generator of the orthonormal matrices. Dropout draws from torch's global one.
        layers: which weight layers: a type, a pattern of names such as "encoder.*", a predicate of name and module, or
            several of these; None: all.
        forward: runs the model on a batch, where that takes more than `model(batch)`, `model(*batch)` or
            `model(**batch)`: lambda model, batch: model(batch[0]).
        average: each look at a layer is the mean variance of that many fresh batches; 1 is the released code's loop,
            in which a layer may pass by luck where one batch scatters by more than tol. None: as many as it takes until
            the mean is known within tol (its 95 % interval), at most 64.
        check: when all is done, measure the mean variance of every layer over that many further batches, and report
            those that are off by more than 2.5 tol; 0: do not. With one batch and dropout=False it is always measured,
            on that batch.
        strict: raise where a warning would be given.

    Returns:
        A row for each layer and piece. Those without positive, finite variance have the weights and biases they came
        with. Layers that were not reached, and those whose weight belongs to an earlier layer or to a module of another
        kind (an embedding), are left alone and named as well.

    Raises:
        LSUVError: no batch; no weight layer that a forward pass reaches; a layer that cannot be initialised (its weight
            is parametrised, on the meta device, not yet shaped); a DistributedDataParallel model; strict, and a layer
            without unit variance: the others are initialised by then.
        UsageError: unknown pre_init.

    Warns:
        LSUVWarning: a layer was restored or did not converge.
    """
    if pre_init is not None and pre_init not in SCHEMES:
        raise unknown("pre_init", pre_init, SCHEMES)
    bare = _unwrapped(model)
    chosen = select(bare, layers)
    feed = Feed(bare if forward is None else model, batches, forward)
    settings = Settings(tol, max_iter, SCHEMES[pre_init] if pre_init else None, generator, average)
    one_pass = feed.fixed and not dropout
    with measuring(bare, dropout, keep_rng=own_stream(generator)):
        rows = LayerSequence(bare, chosen, settings).run(feed, one_pass)
        count = 1 if one_pass else check
        rows = with_variances(rows, chosen, feed, count)
        rows = [held(row, tol, one_pass) for row in rows]
    report = Report(tuple(rows), dropout, feed.passes, count)
    complain(report, strict)
    return report


def complain(report: Report, strict: bool = False) -> None:
    """Warn of the layers that were restored or did not converge, or raise."""
    if problems := report.problems():
        if strict:
            raise LSUVError(f"LSUV: {problems}")
        warnings.warn(f"LSUV: {problems}", LSUVWarning, stacklevel=3)


def own_stream(generator: Generator | None) -> bool:
    """Whether the weights come from a stream other than torch's global one, which is then put back."""
    return generator is not None and generator is not torch.default_generator


def _unwrapped(model: nn.Module) -> nn.Module:
    """Take a model out of torch.compile and DataParallel."""
    inner = model.module if isinstance(model, DataParallel) else getattr(model, "_orig_mod", None)
    return _unwrapped(inner) if isinstance(inner, nn.Module) else model
