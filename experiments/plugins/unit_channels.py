"""A model initialisation: it sees the model and data. Use: --plugin experiments/plugins/unit_channels.py"""

import torch
from torch import nn


def unit_channels(model, batches, generator):
    """Normal weights, and each channel scaled and shifted to mean 0 and variance 1 on one batch."""

    def normalise(layer, _, output):  # Salimans and Kingma 2016, "Weight normalization"
        others = [axis for axis in range(output.ndim) if axis != 1]
        std, mean = torch.std_mean(output, others, keepdim=True)
        std = std.clamp_min(1e-8)  # a channel may be constant
        layer.weight.div_(std.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.copy_(-(mean / std).flatten())  # it was zero
        return (output - mean) / std  # what the layers after it see

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    for layer in layers:
        layer.weight.copy_(0.05 * torch.randn(layer.weight.shape, generator=generator))  # drawn on the CPU
    hooks = [layer.register_forward_hook(normalise) for layer in layers]
    model(next(batches))
    for hook in hooks:
        hook.remove()
