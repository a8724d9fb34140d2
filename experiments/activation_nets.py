"""The nets of activation_statistics.py: six wide layers, and what is measured of each."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from replicate.init import lsuv_
from replicate.init.schemes import haar_orthonormal, msra, xavier
from replicate.nn.statistics import activation_statistics

INPUTS, LAYERS, BINS = 16, 6, 30
SCHEMES = (msra, xavier, haar_orthonormal)
GAUSSIAN = math.sqrt(4096 / 2)  # times a deviation: the factor on MSRA's weights, whose deviation is √(2 / units)
INITS = {  # scheme, factor on its weights
    "Gaussian 0.01": (msra, 0.01 * GAUSSIAN),
    "Gaussian 0.05": (msra, 0.05 * GAUSSIAN),
    "Gaussian 0.5": (msra, 0.5 * GAUSSIAN),
    "Xavier": (xavier, 1.0),
    "MSRA": (msra, 1.0),
    "OrthoNorm": (haar_orthonormal, 1.0),
    "LSUV": (haar_orthonormal, 1.0),
    "zeros": (msra, 0.0),
}
ACTIVATIONS = {"tanh": nn.Tanh(), "ReLU": nn.ReLU(), "sigmoid": nn.Sigmoid()}
RANGES = {"tanh": (-1, 1), "ReLU": (0, 3), "sigmoid": (0, 1)}  # of the histograms


class Layer(NamedTuple):
    """One layer of a net.

    Args:
        layer: its number, from 1.
        mean, deviation, saturated, dead: see `replicate.nn.statistics.ActivationStatistics`.
        gradient: norm of the gradient with respect to the layer's weights.
        shares: share of the outputs in each of BINS bins.
    """

    layer: int
    mean: float
    deviation: float
    saturated: float
    dead: float
    gradient: float
    shares: list[float]


class Draws:
    """What all nets share: the inputs, the weights of the loss, and the draws from which the nets' weights are made.

    Args:
        units: inputs and outputs of each layer.
    """

    def __init__(self, units: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (units, units)
        self.inputs = torch.randn(INPUTS, units, generator=generator)
        self.loss_weights = torch.randn(INPUTS, units, generator=generator) / (units * math.sqrt(INPUTS))
        self.weights = {scheme: [scheme(shape, generator, 0.0) for _ in range(LAYERS)] for scheme in SCHEMES}
        self.linears = [nn.Linear(*shape, bias=False) for _ in range(LAYERS)]

    def net(self, activation: str, init: str) -> nn.Sequential:
        """Return a net of LAYERS linear layers, each with an activation after it.

        To save memory, all nets have the same linear layers: each call overwrites the weights of the net before.

        Args:
            activation: one of ACTIVATIONS.
            init: one of INITS.
        """
        scheme, factor = INITS[init]
        with torch.no_grad():
            for linear, weight in zip(self.linears, self.weights[scheme], strict=True):
                torch.mul(weight, factor, out=linear.weight)
        net = nn.Sequential(*(part for linear in self.linears for part in (linear, ACTIVATIONS[activation])))
        if init == "LSUV":
            lsuv_(net, self.inputs, pre_init=None, dropout=False)
        return net


def measure(net: nn.Sequential, inputs: Tensor, loss_weights: Tensor, bounds: tuple[float, float]) -> list[Layer]:
    """Measure each layer of a net. The loss is the sum of the last outputs times `loss_weights`.

    Args:
        net: linear layers, each with an activation after it.
        inputs: of the net (n, units).
        loss_weights: weights of the last outputs (n, units).
        bounds: of the histograms. Outputs beyond them are in the first or last bin.
    """
    values, preactivations = [inputs], []
    for linear, activation in zip(net[::2], net[1::2], strict=True):
        preactivations.append(linear(values[-1]))
        values.append(activation(preactivations[-1]))
    deltas = torch.autograd.grad((values[-1] * loss_weights).sum(), preactivations)
    layers = []
    for layer, activation in enumerate(net[1::2]):
        statistics = activation_statistics(activation, preactivations[layer])
        norm = gradient_norm(deltas[layer], values[layer].detach())
        shares = torch.histc(values[layer + 1].detach().clamp(*bounds), BINS, *bounds) / values[layer + 1].numel()
        layers.append(Layer(layer + 1, *statistics, norm, shares.tolist()))
    return layers


def gradient_norm(delta: Tensor, x: Tensor) -> float:
    """Return the norm of a linear layer's weight gradient, deltaᵀ x, without computing this large matrix.

    Args:
        delta: gradient with respect to the layer's outputs (n, out).
        x: the layer's inputs (n, in).
    """
    delta, x = delta.double(), x.double()
    return ((delta @ delta.T) * (x @ x.T)).sum().sqrt().item()
