"""Model initialisations: functions that look at a whole model, or at data, and change its weights in place."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, nn

from replicate.init.forward import measurement_mode
from replicate.init.layers import WeightLayer
from replicate.init.report import LSUVError
from replicate.init.sequence import LayerSequence

# (model, batches, generator): changes the model's weights and biases in place. `next(batches)` is a fresh batch on the
# model's device. At first, the weights are as the model was built, and the biases zero.
ModelInit = Callable[[nn.Module, Iterator[Any], Generator], None]
REGISTRIES = ("_parameters", "_modules")  # of a torch.nn.Module


def takes_model(init: Callable[..., Any]) -> bool:
    """Whether an initialisation is a model initialisation, and not a scheme: by the name of its first parameter.

    Raises:
        LSUVError: the first parameter is neither `model` nor `shape`.
    """
    first = next(iter(inspect.signature(init).parameters), None)
    if first not in ("model", "shape"):
        raise LSUVError(f"the first parameter of {_name(init)} is {first!r}; name it model, or shape for a scheme")
    return first == "model"


def zero_biases(layer: WeightLayer) -> None:
    """Set the biases of a layer to zero, and keep its weights."""
    for piece in range(layer.pieces):
        for bias in layer.biases(piece):
            bias.zero_()


def apply_(init: ModelInit, sequence: LayerSequence, dropout: bool, generator: Generator | None) -> None:
    """Find the layers, start each, and let a model initialisation set their weights and biases.

    Parameters keep their memory, also if the function puts other tensors in the place of their `data`. Gradients that
    it computes are removed.

    Args:
        init: the function. Gradients are off while it runs.
        sequence: of the model; within its `undone_on_error`.
        dropout: whether the model is in training mode.
        generator: for the function; None: torch's own, on the CPU.

    Raises:
        LSUVError: the function has replaced a parameter, or changed its shape, dtype or device, or one that is not the
            weight or bias of a layer to be initialised.
    """
    model = sequence.survey.model
    with measurement_mode(model, dropout, generator):
        sequence.passes.run()  # finds the layers
        sequence.passes.runner.count = 0  # this pass is no part of the initialisation
        for layer in sequence.survey.selected():
            sequence.start(layer)
        _call(init, model, sequence, generator or torch.default_generator)
    mine = sequence.initialised()
    for name, parameter in model.named_parameters():
        if not sequence.snapshot.adopt(parameter):
            raise LSUVError(f"{_name(init)} has changed the shape, dtype or device of {name}")
        if parameter not in mine and sequence.snapshot.differs(parameter):
            problem = "which is not the weight or bias of a layer to be initialised"
            raise LSUVError(f"{_name(init)} has changed {name}, {problem}")


def _call(init: ModelInit, model: nn.Module, sequence: LayerSequence, generator: Generator) -> None:
    """Call the function; afterwards the model has the parameters, modules, gradients and frozen weights of before."""
    named = dict(model.named_parameters())
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in named.values()]
    registries = [(module, name, getattr(module, name)) for module in model.modules() for name in REGISTRIES]
    registered = [(module, name, registry, dict(registry)) for module, name, registry in registries]
    for parameter in named.values():
        parameter.grad = None  # a backward pass would add to it
    counter = model.register_forward_pre_hook(lambda *_: sequence.passes.runner.count_one())
    try:
        init(model, sequence.passes.runner.batches, generator)
        after = dict(model.named_parameters())
    finally:
        counter.remove()
        for module, name, registry, entries in registered:
            registry.clear()
            registry.update(entries)
            setattr(module, name, registry)
        for parameter, gradient, is_trained in gradients:
            parameter.grad = gradient
            parameter.requires_grad_(is_trained)
    if wrong := [name for name in {**named, **after} if after.get(name) is not named.get(name)]:
        raise LSUVError(f"{_name(init)} has replaced {wrong[0]}; change weights in place, with copy_ or mul_")


def _name(init: Callable[..., Any]) -> str:
    return getattr(init, "__name__", None) or repr(init)
