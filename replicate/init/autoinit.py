"""AutoInit: weights scaled by the mean and the variance that the signal has before each layer, by calculation."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from replicate.init.other_model_inits import moments_of_largest, normal_, weight_modules
from replicate.init.report import LSUVError

UNCHANGED = (nn.Flatten, nn.Identity)
ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid)


class Moments(NamedTuple):
    """Mean and variance of a signal."""

    mean: float
    variance: float


def autoinit(model: nn.Module, batches: Iterator[Tensor], generator: Generator) -> None:
    """Normal weights of variance 1 / (fan_in m), where m is the mean square of the layer's input.

    So the output of each layer has variance 1. Mean and variance are measured for the images and calculated from then
    on, through activations, dropout, pooling and identities, as if all signals were normal and independent. Source:
    Bingham and Miikkulainen 2023. That borders are ignored, and that maxima are those of independent numbers, is our
    choice.

    Raises:
        LSUVError: the net has a module of an unknown kind, or the images are all zero.
    """
    if {*weight_modules(model)} - {*model.children()}:
        raise LSUVError("autoinit is for a sequence of layers, and this model has others inside its parts")
    images = next(batches)
    signal = Moments(float(images.mean()), float(images.var(correction=0)))
    identities: dict[str, str] = getattr(model, "identities", {})
    branch = signal
    for name, module in model.named_children():
        if name in identities:
            branch = signal
        if isinstance(module, nn.Conv2d | nn.Linear):
            if not (square := signal.mean**2 + signal.variance):
                raise LSUVError(f"autoinit cannot scale {name}, because its input is zero")
            normal_(module, 1 / square, generator)
        signal = after(module, signal, images.device)
        if name in identities.values():
            signal = Moments(signal.mean + branch.mean, signal.variance + branch.variance)


def after(module: nn.Module, signal: Moments, device: torch.device) -> Moments:
    """Return mean and variance of what a module makes of a signal; `device`: of the module."""
    match module:
        case nn.Conv2d() | nn.Linear() | nn.BatchNorm1d() | nn.BatchNorm2d():
            normalises = module.training or isinstance(module, nn.Conv2d | nn.Linear)
            return Moments(0, 1) if normalises else signal  # as built, the running statistics change nothing
        case nn.Dropout():
            square = module.p * signal.mean**2 if module.training else 0.0
            return Moments(signal.mean, (signal.variance + square) / (1 - module.p * module.training))
        case nn.MaxPool2d():
            assert isinstance(module.kernel_size, int)  # as `replicate.nn` makes it
            return _largest(module.kernel_size**2, signal)
        case _ if isinstance(module, UNCHANGED):
            return signal
        case _ if isinstance(pieces := getattr(module, "pieces", None), int):  # maxout
            return _largest(pieces, signal)
        case _ if isinstance(module, ELEMENTWISE):
            return _activated(module, signal, device)
    raise LSUVError(f"autoinit does not know what {type(module).__name__} does to a signal")


def _largest(count: int, signal: Moments) -> Moments:
    mean, variance = moments_of_largest(count)
    return Moments(signal.mean + mean * math.sqrt(signal.variance), signal.variance * variance)


def _activated(activation: nn.Module, signal: Moments, device: torch.device) -> Moments:
    """Integrate the output of an elementwise function over a normal input."""
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    weights = torch.exp(-(grid**2) / 2)
    weights /= weights.sum()
    points = (signal.mean + math.sqrt(signal.variance) * grid).to(device, torch.float32)
    outputs = activation(points).double().cpu()
    mean = float((weights * outputs).sum())
    return Moments(mean, float((weights * (outputs - mean) ** 2).sum()))
