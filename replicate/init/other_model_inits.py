"""Further initialisations that look at the whole net, or at data, for comparison with those of the paper.

They are for the nets of this project, whose weight layers are `Conv2d` and `Linear` modules, registered in the order of
the forward pass. Constants and corners on which their papers are silent are our choice, and are said to be.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from replicate.init.report import LSUVError
from replicate.init.schemes import empty, fan_in, msra

WeightModule = nn.Conv2d | nn.Linear
BETA = 0.1  # mean of the pre-activations: the default of the released code (philkr/magic_init)
STEPS, RATE, MOMENTUM, EPSILON = 100, 0.1, 0.9, 1e-5  # of MetaInit; theirs are 500 steps


def weight_modules(model: nn.Module) -> list[WeightModule]:
    """List the convolutions and fully connected layers in the order in which they were registered.

    Raises:
        LSUVError: there is none, or there are weights of another kind.
    """
    for module in model.modules():
        if not isinstance(module, WeightModule) and any(one.ndim > 1 for one in module.parameters(recurse=False)):
            raise LSUVError(f"this initialisation knows Conv2d and Linear only, not {type(module).__name__}")
    found = [module for module in model.modules() if isinstance(module, WeightModule)]
    if not found:
        raise LSUVError("the model has no Conv2d and no Linear")
    return found


def normal_(module: WeightModule, variance: float, generator: Generator) -> None:
    """Draw normal weights of mean 0 and this variance times 1 / fan_in."""
    shape = tuple(module.weight.shape)
    module.weight.copy_(empty(shape, generator).normal_(0, math.sqrt(variance / fan_in(shape)), generator=generator))


def krahenbuhl(model: nn.Module, batches: Iterator[Tensor], generator: Generator) -> None:
    """Normal weights, scaled and shifted so that each channel of a layer has mean 0.1 and variance 1 on one batch.

    Source: Krähenbühl et al. 2016, normalisation within layers, and their released code. Each maxout piece is a channel
    of its own. A channel that is the same for all images keeps its scale: our choice.
    """

    def normalise(module: WeightModule, args: object, output: Tensor) -> Tensor:
        others = [axis for axis in range(output.ndim) if axis != 1]
        deviation, mean = torch.std_mean(output, others, correction=0)  # of each channel
        deviation[deviation == 0] = 1
        module.weight /= deviation.view(-1, *[1] * (module.weight.ndim - 1))
        shift = BETA - mean / deviation
        if module.bias is not None:
            module.bias.copy_(shift)
        along = (1, -1, *[1] * (output.ndim - 2))
        return output / deviation.view(along) + shift.view(along)  # the next layer is measured on this

    for module in weight_modules(model):
        module.weight.copy_(empty(tuple(module.weight.shape), generator).normal_(generator=generator))
    handles = [module.register_forward_hook(normalise) for module in weight_modules(model)]
    try:
        model(next(batches))
    finally:
        for handle in handles:
            handle.remove()


def maxout_normal(model: nn.Module, batches: Iterator[Tensor], generator: Generator) -> None:
    """Normal weights of variance 1 / (fan_in E[x²]), where x is the largest of k standard normal numbers.

    k is the number of pieces of the layer before: E[x²] is 1 for two pieces and 1.80 for five. It is the rule of He et
    al. 2015 with maxout in the place of ReLU (compare Tseran and Montúfar 2023). For the first layer E[x²] is 1, and
    without maxout 1/2, that of ReLU: our choice.
    """
    modules = weight_modules(model)
    normal_(modules[0], 1, generator)
    for before, module in pairwise(modules):
        pieces = getattr(before, "pieces", 1)
        mean, variance = moments_of_largest(pieces)
        normal_(module, 1 / (variance + mean**2) if pieces > 1 else 2, generator)


def moments_of_largest(count: int) -> tuple[float, float]:
    """Return mean and variance of the largest of `count` independent standard normal numbers, by quadrature."""
    normal, step = NormalDist(), 0.01
    grid = [step * number for number in range(-1000, 1001)]
    density = [count * normal.pdf(x) * normal.cdf(x) ** (count - 1) for x in grid]
    mean, square = (step * sum(x**power * p for x, p in zip(grid, density, strict=True)) for power in (1, 2))
    return mean, square - mean**2


def fixup(model: nn.Module, batches: Iterator[Tensor], generator: Generator) -> None:
    """MSRA, but zero in the last layer of the net and of each residual branch, and smaller in the rest of the branches.

    The factor is L^(-1 / (2m - 2)) for L branches of m layers. Source: Zhang et al. 2019, rules 1 and 2. The scalar
    biases and factors of their rule 3 are left out, because the net has none: our choice.

    Raises:
        LSUVError: the net has no residual branches.
    """
    branches = getattr(model, "identities", None)
    if not branches:
        raise LSUVError("fixup is for residual nets, and this one has no identities")
    parts = dict(model.named_children())
    names = list(parts)
    for module in weight_modules(model):
        module.weight.copy_(msra(tuple(module.weight.shape), generator))
    for first, last in branches.items():
        inside = [parts[name] for name in names[names.index(first) : names.index(last) + 1]]
        *others, end = [module for module in inside if isinstance(module, WeightModule)]
        for module in others:
            module.weight.mul_(len(branches) ** (-1 / (2 * len(others))))
        end.weight.zero_()
    weight_modules(model)[-1].weight.zero_()


def metainit(model: nn.Module, batches: Iterator[Tensor], generator: Generator) -> None:
    """MSRA, with the norm of each weight changed so that the gradient of the loss changes little along itself.

    Each step lowers the gradient quotient, the mean of |(Hg) / g| over all parameters with gradient g and Hessian H, by
    a fixed change of each norm, up or down, with momentum. Inputs are normal and labels random. Source: Dauphin and
    Schoenholz 2019. The weights at the start, the size of the batches (that of LSUV), and 100 steps are our choice, and
    so is that a step leaves at least a tenth of a norm: momentum could carry it through zero.
    """
    modules = weight_modules(model)
    for module in modules:
        module.weight.copy_(msra(tuple(module.weight.shape), generator))
    model.eval()
    like, classes = next(batches), len(modules[-1].weight)
    weights, speeds = [module.weight for module in modules], [0.0] * len(modules)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(STEPS):
        images = empty(tuple(like.shape), generator).normal_(generator=generator).to(like)
        labels = torch.randint(classes, (len(like),), generator=generator, device=generator.device).to(like.device)
        with torch.enable_grad():
            quotient = gradient_quotient(F.cross_entropy(model(images), labels), parameters)
            gradients = torch.autograd.grad(quotient, weights)
        for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            norm = float(weight.detach().norm())
            uphill = float(torch.sign((weight * gradient).sum()))  # along the norm
            change = max(MOMENTUM * speeds[index] - RATE * uphill, -0.9 * norm)
            weight.mul_((norm + change) / norm)
            speeds[index] = change


def gradient_quotient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return the mean over all parameters of |(g - Hg) / (g ± ε) - 1|, which can be differentiated.

    Args:
        loss: a scalar.
        parameters: on which it depends; g are its gradients, H its Hessian. ε has the sign of g, + for 0.
    """
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    half = torch.stack([gradient.square().sum() for gradient in gradients]).sum() / 2  # its gradient is Hg
    products = torch.autograd.grad(half, parameters, create_graph=True)
    terms = [
        ((g - product) / (g + EPSILON * torch.where(g >= 0, 1.0, -1.0)) - 1).abs().sum()
        for g, product in zip(gradients, products, strict=True)
    ]
    return torch.stack(terms).sum() / sum(g.numel() for g in gradients)
