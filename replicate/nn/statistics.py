"""What an activation does to the values and to the gradient of one layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

# Ours: an output is saturated if less than 5 % of the gradient passes back through it: tanh beyond ±0.975, sigmoid
# outside 0.053 to 0.947, ReLU at 0. The limit is not relative to the activation's largest slope (0.25 for sigmoid),
# because the lost gradient is what matters.
SATURATED_BELOW = 0.05


class ActivationStatistics(NamedTuple):
    """Statistics of one activation on one batch.

    Args:
        mean: of the outputs.
        deviation: standard deviation of the outputs (÷ n).
        saturated: share of the outputs whose slope is below 0.05 in absolute value. A maxout output has the slope of
            its largest piece, 1, so it is never saturated.
        dead: share of the input channels (units; for maxout, pieces) whose slope is exactly 0 for every image and
            position. The weights of such a channel get no gradient from this batch.
    """

    mean: float
    deviation: float
    saturated: float
    dead: float


def activation_statistics(module: nn.Module, x: Tensor) -> ActivationStatistics:
    """Measure an activation on the pre-activations of a layer. The definitions are ours.

    The slopes come from autograd, also inside `torch.no_grad` and `torch.inference_mode`. Module, input and gradients
    are not changed, and the module's hooks are not called.

    Args:
        module: an elementwise activation, or Maxout.
        x: pre-activations (n, c, …), of any floating-point type.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        output = module.forward(leaf.clone())  # a copy, which an in-place activation may overwrite
        (slopes,) = torch.autograd.grad(output.sum(), leaf)
    slopes.abs_()
    deviation, mean = torch.std_mean(output.detach().float(), correction=0)
    of_outputs = torch.unflatten(slopes, 1, (output.shape[1], -1)).amax(2)  # n c·pieces … -> n c …
    saturated = (of_outputs < SATURATED_BELOW).float().mean()
    dead = (slopes == 0).transpose(0, 1).flatten(1).all(1).float().mean()  # n c … -> c n·… -> c
    return ActivationStatistics(*torch.stack([mean, deviation, saturated, dead]).tolist())
