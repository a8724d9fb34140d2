"""Copies of the weights in the precision of autocast, made and read back by one kernel each."""

import copy

import torch
from torch import Tensor, nn

CAST = (nn.Conv2d, nn.Linear)  # layers whose weights autocast casts


class HalfCopies:
    """A twin of a net, whose convolutions and linear layers have their weights in half precision.

    Under autocast each weight is cast on its own in each iteration, and each gradient is cast back: 76 kernels for
    FitNet-4. The twin's weights are refreshed by one kernel, and its gradients become the net's by another. The numbers
    are those of autocast, bit by bit: the same values are rounded at the same places. (Of a weight that several layers
    share, the gradients are added up in half precision.)

    Args:
        net: in training mode. The twin shares whatever is not cast.
        dtype: of the copies.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        layers = [module for module in net.modules() if isinstance(module, CAST)]
        weights = {weight: None for layer in layers for weight in layer.parameters(recurse=False)}  # each once
        self._weights: list[Tensor] = list(weights)
        self._copies: list[Tensor] = [
            nn.Parameter(weight.detach().to(dtype), requires_grad=weight.requires_grad) for weight in self._weights
        ]
        self._gradients = [torch.empty_like(weight) for weight in self._weights]
        shared = {id(tensor): tensor for tensor in [*net.parameters(), *net.buffers()]}
        cast = {id(weight): half for weight, half in zip(self._weights, self._copies, strict=True)}
        self.net: nn.Module = copy.deepcopy(net, {**shared, **cast})

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the twin the weights of the net, and no gradients."""
        torch._foreach_copy_(self._copies, self._weights)
        for half in self._copies:
            half.grad = None

    @torch.no_grad()
    def return_gradients(self) -> None:
        """Give the net the gradients of the twin."""
        there = [number for number, half in enumerate(self._copies) if half.grad is not None]
        for number in there:
            self._weights[number].grad = self._gradients[number]
        halves: list[Tensor] = [self._copies[number].grad for number in there]  # type: ignore[misc]  # none is None
        torch._foreach_copy_([self._gradients[number] for number in there], halves)
