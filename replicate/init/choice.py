"""Which weight layers of a model are meant, and whether they can be initialised at all."""

import contextlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from replicate.init.errors import LSUVError
from replicate.init.layers import TRANSPOSED, WeightLayer, weight_layers

# A type of module, a pattern for names such as "encoder.*", a predicate of name and module, or several of these
Choice = type[nn.Module] | str | Callable[[str, nn.Module], bool]
Layers = Choice | Iterable[Choice]


def select(model: nn.Module, layers: Layers | None) -> list[WeightLayer]:
    """Choose weight layers of a model, in the order of registration.

    Args:
        model: any module.
        layers: those that one choice at least is true of; None: all.

    Returns:
        At least one layer, each with a weight that can be written.

    Raises:
        LSUVError: there is none, or one that cannot be initialised.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise LSUVError("a scripted model's layers cannot be measured; initialise it before torch.jit.script")
    if isinstance(model, DistributedDataParallel):
        raise LSUVError("initialise the model first, then wrap it: DistributedDataParallel copies rank 0's weights")
    found = weight_layers(model)
    if layers is not None:
        choices = [layers] if isinstance(layers, str) or callable(layers) else list(layers)
        found = [layer for layer in found if any(_chosen(layer, choice) for choice in choices)]
        if not found:
            raise LSUVError(f"layers={layers!r} chooses no weight layer of the model")
    if not found:
        raise LSUVError("the model has no linear or convolutional layer")
    tensors = (*model.named_parameters(), *model.named_buffers())
    if meta := next((name for name, tensor in tensors if tensor.is_meta), None):
        raise LSUVError(f"{meta!r} is on the meta device and has no values; call model.to_empty(device=…) first")
    for layer in found:
        if problem := _problem(layer):
            raise LSUVError(f"layer {layer.name!r} {problem}")
    return found


def _chosen(layer: WeightLayer, choice: Choice) -> bool:
    if isinstance(choice, str):
        return fnmatchcase(layer.name, choice)
    if isinstance(choice, type):
        return isinstance(layer.module, choice)
    return choice(layer.name, layer.module)


def _problem(layer: WeightLayer) -> str | None:
    """Say why a layer cannot be initialised."""
    module = layer.module
    parameters = []
    # To read a parametrised weight is to compute it, which spectral_norm counts. The older weight_norm, spectral_norm
    # and prune make `weight` anew before each forward: it is no parameter.
    if not parametrize.is_parametrized(module):
        with contextlib.suppress(AttributeError):
            parameters = layer.parameters()
    if not parameters:
        return (
            "computes its weight from other tensors (weight_norm, spectral_norm, prune or the like); take that off "
            "and put it on again afterwards, or leave the layer out by layers="
        )
    if any(is_lazy(parameter) for parameter in parameters):
        return "has no shape yet; run the model on one batch first"
    if not all(parameter.is_floating_point() for parameter in parameters):
        return f"has a weight of {parameters[0].dtype}; real floating-point numbers are needed"
    if parameters[0].numel() == 0:
        return "has an empty weight"
    if type(layer) is WeightLayer:
        axis = int(isinstance(module, TRANSPOSED))
        groups = 1 if axis else int(getattr(module, "groups", 1))
        if parameters[0].shape[axis] % (layer.pieces * groups):
            return f"cannot be cut: {parameters[0].shape[axis]} outputs, {groups} groups, {layer.pieces} pieces"
    return None
