"""Weight layers: their pieces, linear maps and biases, their names, and which of them to initialise."""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from replicate.init import memory
from replicate.init.calls import Layout, Use
from replicate.init.report import COMPUTED, LSUVError

# A type of module, a pattern for names such as "encoder.*", or a predicate of name and module
LayerFilter = type[nn.Module] | str | Callable[[str, nn.Module], bool]
LayerFilters = LayerFilter | Iterable[LayerFilter] | None


@dataclass(frozen=True, slots=True, eq=False)
class WeightLayer:
    """A weight as forward passes apply it.

    Args:
        name: of the module, if the parameter is its `weight`, else of the parameter.
        module: the module that holds the parameter.
        parameter: holds the weight, or the weight is computed from it.
        weight: view of the parameter, in the shape in which it is applied.
        layout: of the weight.
        pieces: number of linear pieces of a maxout layer, or of slices of a packed weight, else 1.
        scaled: the tensor that a rescaling divides: the weight, or under weight_norm its magnitude.
        all_biases: the biases to set to zero: (pieces·out,).
        adds_bias: whether the pre-activation contains the bias; a module may add it later.
        measured: whether the weight has its own pre-activation.
        computed: whether the weight is computed from the parameter in each forward pass.
        drawn: whether the scheme can draw the weight; otherwise it keeps its values.
        norm_axis: under weight_norm: the axis of the weight that has one magnitude per index.
        left: the status that says why the layer is not initialised; None: it is initialised.
    """

    name: str
    module: nn.Module
    parameter: nn.Parameter
    weight: Tensor
    layout: Layout
    pieces: int
    scaled: Tensor
    all_biases: tuple[Tensor, ...] = ()
    adds_bias: bool = False
    measured: bool = True
    computed: bool = False
    drawn: bool = True
    norm_axis: int | None = None
    left: str | None = None

    def part(self, tensor: Tensor, piece: int, axis: int | None = None) -> Tensor:
        """View of the rows that belong to a piece: consecutive ones in packed weights, every k-th in maxout layers.

        Args:
            tensor: the weight, or a tensor with the same number of outputs.
            piece: index of the piece.
            axis: of the outputs in the tensor; None: as in the weight.
        """
        if self.layout.slices > 1:
            return tensor.chunk(self.layout.slices)[piece]
        axis = self.layout.axis if axis is None else axis % tensor.ndim
        if self.pieces == 1 or axis is None:
            return tensor
        return torch.unflatten(tensor, axis, (-1, self.pieces)).select(axis + 1, piece)  # n·k in … -> n in …

    def blocks(self, piece: int) -> list[Tensor]:
        """Views (out…, in…) of the linear maps that make up a piece, such as one for each group of a convolution."""
        return list(self.layout.blocks(self.part(self.weight, piece)))

    def biases(self, piece: int) -> list[Tensor]:
        """Views of the biases of a piece: (out,)."""
        return [self.part(bias, piece, axis=0) for bias in self.all_biases]

    def tensors(self, piece: int) -> list[Tensor]:
        """Views of everything in a piece that an initialisation may change. A rescaling divides the first one."""
        scaled = self.part(self.scaled, piece)
        weight = [] if self.scaled is self.weight else [self.part(self.weight, piece)]
        return [scaled, *weight, *self.biases(piece)]

    def all_tensors(self) -> list[Tensor]:
        """Everything in the layer that an initialisation may change."""
        return [self.scaled, self.weight, *self.all_biases]

    def can_be_divided(self) -> bool:
        """Whether each piece has the same number of outputs, also in each group of a convolution."""
        if self.layout.axis is None or self.layout.slices > 1:
            return False
        try:
            for piece in range(self.pieces):
                self.blocks(piece)
        except RuntimeError:
            return False
        return True

    def renew_magnitude(self) -> None:
        """Under weight_norm: set the magnitudes so that the computed weight equals the one that was drawn."""
        if self.norm_axis is not None:
            self.scaled.copy_(torch.norm_except_dim(self.weight, 2, self.norm_axis))

    def values(self, preactivation: Tensor | list[Tensor]) -> list[Tensor]:
        """Split the pre-activation by pieces.

        Args:
            preactivation: (…, pieces·out, …), or for packed weights one tensor per slice.
        """
        if isinstance(preactivation, list):
            return [values.detach() for values in preactivation]
        if self.pieces == 1:
            return [preactivation.detach()]
        axis = self.layout.channels % preactivation.ndim
        pieces = torch.unflatten(preactivation.detach(), axis, (-1, self.pieces))  # n c·k … -> n c k …
        return [pieces.select(axis + 1, piece) for piece in range(self.pieces)]


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A tensor that was computed only from parameters and buffers, such as a standardised weight.

    Args:
        value: the tensor.
        roots: the parameters.
        magnitude: under weight_norm, the parameter that holds the magnitudes.
        norm_axis: see `WeightLayer`.
    """

    value: Tensor
    roots: frozenset[nn.Parameter]
    magnitude: nn.Parameter | None = None
    norm_axis: int | None = None

    def root(self) -> nn.Parameter | None:
        """Return the parameter that is the weight; None unless exactly one of the parameters is a matrix."""
        matrices = [root for root in self.roots if root.ndim > 1 and root is not self.magnitude]
        large = [root for root in matrices if is_matrix(root)] or matrices
        return large[0] if len(large) == 1 else None


@dataclass(frozen=True, slots=True)
class Entry:
    """A parameter under one of its names in the model, and the module that holds it under that name."""

    name: str
    module: nn.Module
    parameter: nn.Parameter


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether at least two axes are longer than 1."""
    return sum(size > 1 for size in parameter.shape) > 1


def make_layer(
    entry: Entry, parameter: nn.Parameter, use: Use, computed: Computed | None, biases: list[Tensor]
) -> WeightLayer:
    """Make the layer of a weight at its first call.

    Args:
        entry: the parameter, as its module holds it.
        parameter: the first one in the same memory.
        use: the weight.
        computed: how the weight was computed, unless it is a view of the parameter.
        biases: parameters, or views of them, of which those with one value per output are the layer's.
    """
    weight = entry.parameter.detach() if computed else use.weight.detach()
    scaled, norm_axis, left = memory.without_repeats(weight), None, None
    if computed and computed.magnitude is not None:
        scaled, norm_axis = computed.magnitude.detach(), computed.norm_axis
    elif computed and (".parametrizations." in f".{entry.name}" or _is_original(entry)):
        left = COMPUTED
    layer = WeightLayer(
        name=layer_name(entry.name),
        module=entry.module,
        parameter=parameter,
        weight=weight,
        layout=use.layout,
        pieces=use.layout.slices,
        scaled=scaled,
        all_biases=tuple(bias.detach() for bias in biases if bias.numel() in use.layout.outputs(use.weight)),
        adds_bias=use.bias is not None,
        measured=use.values is not None,
        computed=computed is not None,
        drawn=weight.shape == use.weight.shape,
        norm_axis=norm_axis,
        left=left,
    )
    pieces = getattr(entry.module, "pieces", 1)
    maxout = replace(layer, pieces=pieces) if isinstance(pieces, int) and pieces > 1 else layer
    return maxout if maxout.can_be_divided() else layer


def _is_original(entry: Entry) -> bool:
    """Whether a hook computes the weight from the parameter before each forward pass, as spectral_norm and prune do."""
    name = entry.name.rpartition(".")[2]
    return name.endswith("_orig") and hasattr(entry.module, name.removesuffix("_orig"))


def layer_name(parameter: str) -> str:
    """Return the name of the layer to which a parameter belongs, as users know it.

    Args:
        parameter: its name in the model, such as "0.weight" or, under weight_norm,
            "0.parametrizations.weight.original1"; both belong to layer "0".
    """
    name = re.sub(r"parametrizations\.(\w+)\.original\d?$", r"\1", parameter)
    name = re.sub(r"(^|\.)weight(_v|_orig)?$", "", name)
    return re.sub(r"_weight(_v|_orig)?$", "", name)


def make_filter(layers: LayerFilters) -> Callable[[str, nn.Module], bool]:
    """Make a predicate of name and module that is true if at least one of the filters is.

    Raises:
        LSUVError: a filter is of the wrong type.
    """
    if layers is None:
        return lambda name, module: True
    filters = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, (str, type)) else [layers]
    for one in filters:
        if not (isinstance(one, (str, type)) or _is_predicate(one)):
            raise LSUVError(
                f"layers={one!r} is no filter; give a type of module, a pattern of names or a predicate of name and "
                "module"
            )
    return lambda name, module: any(_passes(name, module, one) for one in filters)


def _is_predicate(value: object) -> bool:
    if not callable(value) or isinstance(value, nn.Module):
        return False
    try:
        inspect.signature(value).bind("name", "module")
    except TypeError:
        return False
    return True


def _passes(name: str, module: nn.Module, one: LayerFilter) -> bool:
    if isinstance(one, str):
        return fnmatchcase(name, one)
    if isinstance(one, type):
        return isinstance(module, one)
    return one(name, module)
