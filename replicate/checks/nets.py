"""Checks of nets before their first iteration: the loss, and the gradients."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.table import Table
from torch import Tensor

from replicate.checks.common import LSUV, SMALL, Finding, Say, sample, start
from replicate.data.dataset import Dataset
from replicate.init import LSUVError
from replicate.report.text import cell_name, count, display_name
from replicate.run import Run
from replicate.training.module import Classifier

IMAGES = 32  # of the training set: whitening by few images does not suit others
LARGE = 2.0  # times ln(classes): a loss that is marked
STEP = 1e-9  # of the finite differences: so small that hardly any kink of ReLU, maxout or max-pooling lies within
MAX_ERROR = 1e-3  # of a derivative; rounding makes about 1e-7


def check_losses(runs: Sequence[Run], dataset: Dataset, say: Say) -> Finding:
    """Measure the loss of each cell on training images before the first iteration, without dropout.

    The loss begins at ln(classes) only if the logits hardly vary, and far above it if they vary much. Neither is an
    error. What fails is a loss that is not finite, or that is no softmax cross-entropy: with every class as the label
    in turn, the mean loss of an image with logits z lies between ln(classes), by Jensen's inequality, and
    ln(classes) + max(z) - mean(z), whatever the net. The loss with the right labels has no such bound: by chance it may
    be lower.

    Args:
        runs: of each init and activation, the first run is taken.
        dataset: theirs.
        say: called with the name of each cell.
    """
    few, n = sample(dataset, train=1000, test=1), len(dataset.classes)
    losses: dict[tuple[str, str], tuple[float, float]] = {}  # loss, variance of the logits
    wrong = []
    for (init, activation), run in {(run.init, run.activation): run for run in reversed(runs)}.items():
        say(cell_name(init, activation))
        try:
            module, data = start(replace(run, **LSUV), few)
        except LSUVError as error:
            wrong.append(f"{cell_name(init, activation)}: {error}")
            continue
        labels = data.train_labels[:IMAGES]
        with torch.no_grad():
            logits = module.eval().net(data.train_images[:IMAGES])
            loss = module.loss(logits, labels).item()
            mean = sum(module.loss(logits, torch.full_like(labels, label)).item() for label in range(n)) / n
        most = math.log(n) + (logits.amax(1) - logits.mean(1)).mean().item()
        losses[init, activation] = (loss, logits.var().item())
        if not math.isfinite(loss):
            wrong.append(f"{cell_name(init, activation)} has a loss of {loss}")
        elif not math.log(n) - 1e-4 * most <= mean <= most + 1e-4 * most:  # rounding
            bounds = f"{mean:.3f}, which must lie between {math.log(n):.3f} and {most:.3f}"
            wrong.append(f"the mean loss of {cell_name(init, activation)} over all classes is {bounds}")
    high = LARGE * math.log(n)
    table = _table(runs, losses, high)
    if wrong:
        return Finding("failed", "; ".join(wrong), table)
    found = [loss for loss, _ in losses.values()]
    text = f"{min(found):.3f} to {max(found):.3f} in {count(len(found), 'cell')}, where ln({n}) = {math.log(n):.3f}"
    if max(found) > high:
        text += "; large ones (*) come from the initialisation and are no error"
    small = (
        f"one seed, {min(IMAGES, len(few.train_labels))} training images, LSUV on batches of {LSUV['lsuv_batch_size']}"
    )
    return Finding("ok", f"{text}; {small}", table)


def _table(runs: Sequence[Run], losses: dict[tuple[str, str], tuple[float, float]], high: float) -> Table:
    """Lay out the losses, one row per activation so that a line fits on a terminal."""
    inits, activations = (list(dict.fromkeys(getattr(run, axis) for run in runs)) for axis in ("init", "activation"))
    title = "       loss (variance of the logits)"
    table = Table("      ", *map(display_name, inits), box=None, title=title, title_justify="left")
    for activation in activations:
        cells = [losses.get((init, activation)) for init in inits]
        texts = [f"{one[0]:.2f}{'*' if one[0] > high else ''} ({one[1]:.2g})" if one else "–" for one in cells]
        table.add_row(f"       {display_name(activation)}", *texts)
    return table


def check_gradients(runs: Sequence[Run], dataset: Dataset, say: Say) -> Finding:
    """Compare the gradients of a small net with central differences in float64, for each activation.

    The derivative is taken along one random direction per weight and bias. Its error is relative to the norm of the
    whole gradient, because the gradients of the first layers vanish with sigmoid.

    Args:
        runs: give the activations.
        dataset: four of its training images are used.
        say: called with the name of each activation.
    """
    few, activations = sample(dataset, train=200, test=1), list(dict.fromkeys(run.activation for run in runs))
    errors = []
    for activation in activations:
        say(display_name(activation))
        module, data = start(replace(runs[0], **{**SMALL, "init": "orthonormal_msra", "activation": activation}), few)
        error, name = _largest_error(module.double(), data.train_images[:4].double(), data.train_labels[:4])
        errors.append((error, f"{name} with {display_name(activation)}"))
    error, place = max(errors)
    text = f"largest relative error {error:.1e} ({place}), limit {MAX_ERROR:g}; {count(len(activations), 'activation')}"
    return Finding("ok" if error <= MAX_ERROR else "failed", text)


def _largest_error(module: Classifier, images: Tensor, labels: Tensor) -> tuple[float, str]:
    """Return the largest relative error of a derivative of the loss, and the name of its weight or bias."""

    def loss() -> Tensor:
        return module.loss(module.net(images), labels)

    generator, errors = torch.Generator().manual_seed(0), []
    parameters = dict(module.net.named_parameters())
    with torch.no_grad():
        for weight in parameters.values():
            if weight.ndim == 1:  # with biases of 0, a patch of zeros lies on the kink of ReLU
                weight.normal_(std=0.1, generator=generator)
    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    whole = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    with torch.no_grad():
        for (name, weight), gradient in zip(parameters.items(), gradients, strict=True):
            direction = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            before, values = weight.clone(), []
            for step in (STEP, -STEP):
                weight.copy_(before + step * direction)
                values.append(loss().item())
            weight.copy_(before)
            slope = (values[0] - values[1]) / (2 * STEP)
            errors.append((abs(slope - (gradient * direction).sum().item()) / whole, name))
    return max(errors)
