"""A scheme: it sees only the shape of a layer. Use: --plugin experiments/plugins/random_signs.py"""

import math

import torch


def random_signs(shape, generator, negative_slope=0.0):
    """Random signs times √(2 / ((1 + slope²) fan_in)): the variance of MSRA, from two values only."""
    fan_in = math.prod(shape[1:])  # a weight has the shape (out, in, k, k), or (out, in)
    signs = 2.0 * torch.randint(2, shape, generator=generator) - 1
    return signs * math.sqrt(2 / ((1 + negative_slope**2) * fan_in))
