"""Weight layers: their pieces, weights, biases and pre-activations, and which of them to initialise."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from replicate.init.report import LSUVError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Batch normalisation, embeddings and the like have weights too, but no pre-activation whose scale these should set.
WEIGHT_LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

# A type of module, a pattern for names such as "encoder.*", or a predicate of name and module
LayerFilter = type[nn.Module] | str | Callable[[str, nn.Module], bool]


@dataclass(slots=True)
class Call:
    """One call of a module or function.

    Args:
        args: positional arguments, before other hooks see them.
        kwargs: keyword arguments, before other hooks see them.
        output: of the latest run.
        run: calls the module again on the same input, with its present weights and the user's hooks.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class WeightLayer:
    """A linear, bilinear or convolutional layer, or a maxout layer: one whose integer attribute `pieces` is above 1.

    Args:
        name: the module's name in its model.
        module: has `weight` (pieces·out, in, …), for transposed convolutions (in, pieces·out, …), and perhaps `bias`.
        source: the module whose call shows the pre-activation. This is `module`, except for the `out_proj` of
            `nn.MultiheadAttention`, which the attention applies without calling it.
        pieces: number of linear pieces of a maxout layer, else 1.
    """

    name: str
    module: nn.Module
    source: nn.Module
    pieces: int = 1

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that hold the weight."""
        return [self.module.get_parameter("weight")]

    def weight(self, piece: int) -> Tensor:
        """View of the weight of one piece: (out, in, …), transposed (in, out, …). Writing to it changes the layer."""
        axis = int(isinstance(self.module, TRANSPOSED))
        # n·k in … -> n k in … -> n in …
        return torch.unflatten(self.parameters()[0].detach(), axis, (-1, self.pieces)).select(axis + 1, piece)

    def biases(self, piece: int) -> list[Tensor]:
        """View of the bias of one piece: (out,). Empty if there is none."""
        bias: Tensor | None = getattr(self.module, "bias", None)
        return [] if bias is None else [torch.unflatten(bias.detach(), 0, (-1, self.pieces))[:, piece]]

    def blocks(self, piece: int) -> list[Tensor]:
        """Views (out, in, …) of the linear maps that make up a piece: one for each group of a convolution."""
        groups = int(getattr(self.module, "groups", 1))
        # Transposed convolutions are divided along their inputs: g·in out … -> g in out … -> g out in …
        blocks = list(torch.unflatten(self.weight(piece), 0, (groups, -1)))
        return [block.transpose(0, 1) for block in blocks] if isinstance(self.module, TRANSPOSED) else blocks

    def values(self, call: Call) -> list[Tensor]:
        """Return the pre-activation of each piece in one call.

        The output is (n, pieces·out, …) or the same without n, for linear layers (…, pieces·out). If it is a tuple,
        its first entry counts.

        Raises:
            LSUVError: the output is not a tensor, or does not contain all pieces.
        """
        output = call.output[0] if isinstance(call.output, tuple) else call.output
        if not isinstance(output, Tensor):
            raise LSUVError(f"layer {self.name!r} returns {type(output).__name__}, not a tensor")
        if self.pieces == 1:
            return [output.detach()]
        channels = output.ndim - (1 if isinstance(self.module, nn.Bilinear) else self.weight(0).ndim - 1)
        outputs = sum(block.shape[0] for piece in range(self.pieces) for block in self.blocks(piece))
        if output.shape[channels] != outputs:
            wrong = f"{output.shape[channels]} channels, not the {outputs} of all its pieces"
            raise LSUVError(f"maxout layer {self.name!r} returns {wrong}; take the maximum in a module of its own")
        pieces = torch.unflatten(output.detach(), channels, (-1, self.pieces))  # n c·k … -> n c k …
        return [pieces.select(channels + 1, piece) for piece in range(self.pieces)]


class AttentionInput(WeightLayer):
    """The input projections of `nn.MultiheadAttention`: query, key and value are pieces 0, 1 and 2."""

    def parameters(self) -> list[nn.Parameter]:
        """One packed parameter, or three if key and value have other widths than the query."""
        packed = self.module.in_proj_weight
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if packed is None else ("in_proj_weight",)
        return [self.module.get_parameter(name) for name in names]

    def weight(self, piece: int) -> Tensor:
        """View of the weight of one projection: (out, in)."""
        found = self.parameters()
        return (found[piece] if len(found) == 3 else found[0].chunk(3)[piece]).detach()

    def biases(self, piece: int) -> list[Tensor]:
        """View of the bias of one projection: (out,)."""
        packed: Tensor | None = getattr(self.module, "in_proj_bias", None)
        return [] if packed is None else [packed.detach().chunk(3)[piece]]

    def values(self, call: Call) -> list[Tensor]:
        """Project the inputs (…, in) again, because the module does not return its projections."""
        inputs = [*call.args[:3], *(call.kwargs[name] for name in ("query", "key", "value")[len(call.args) :])]
        return [F.linear(x.detach(), self.weight(piece), *self.biases(piece)) for piece, x in enumerate(inputs)]


def weight_layers(model: nn.Module) -> Iterator[WeightLayer]:
    """Yield every weight layer of the model, in the order of registration."""
    attentions = {m.out_proj: m for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            yield AttentionInput(f"{name}.in_proj".lstrip("."), module, module, pieces=3)
        elif isinstance(module, WEIGHT_LAYERS) or _is_maxout(module):
            yield WeightLayer(name, module, attentions.get(module, module), int(getattr(module, "pieces", 1)))


def _is_maxout(module: nn.Module) -> bool:
    """Whether a module of another type is a maxout layer. Activations may have `pieces` too, but no weight matrix."""
    return isinstance(getattr(module, "pieces", None), int) and getattr(getattr(module, "weight", None), "ndim", 0) > 1


def select_layers(model: nn.Module, layers: LayerFilter | Iterable[LayerFilter] | None = None) -> list[WeightLayer]:
    """Select weight layers of a model, in the order of registration.

    Args:
        model: any module.
        layers: one filter or several; a layer is selected if it passes at least one of them. None: all layers.

    Returns:
        At least one layer, each with a weight that can be written.

    Raises:
        LSUVError: no layer is selected, or one of them cannot be initialised.
    """
    if isinstance(model, DistributedDataParallel):
        raise LSUVError("initialise the model before wrapping it: DistributedDataParallel copies rank 0's weights")
    found = list(weight_layers(model))
    if layers is not None:
        filters = [layers] if isinstance(layers, str) or callable(layers) else list(layers)
        found = [layer for layer in found if any(_passes(layer, one) for one in filters)]
        if not found:
            raise LSUVError(f"layers={layers!r} selects no weight layer of the model")
    if not found:
        raise LSUVError("the model has no linear or convolutional layer (initialise it before torch.jit.script)")
    tensors = (*model.named_parameters(), *model.named_buffers())
    if meta := next((name for name, tensor in tensors if tensor.is_meta), None):
        raise LSUVError(f"{meta!r} is on the meta device and has no values; call model.to_empty(device=…) first")
    for layer in found:
        if problem := _problem(layer):
            raise LSUVError(f"layer {layer.name!r} {problem}")
    return found


def _passes(layer: WeightLayer, one: LayerFilter) -> bool:
    if isinstance(one, str):
        return fnmatchcase(layer.name, one)
    if isinstance(one, type):
        return isinstance(layer.module, one)
    return one(layer.name, layer.module)


def _problem(layer: WeightLayer) -> str | None:
    """Return why a layer cannot be initialised, or None if it can."""
    module = layer.module
    # Reading a parametrised weight computes it, and spectral_norm counts that. Under the older weight_norm,
    # spectral_norm and prune, `weight` is computed before each forward pass and is no parameter.
    try:
        parameters = [] if parametrize.is_parametrized(module) else layer.parameters()
    except AttributeError:
        parameters = []
    if not parameters:
        reason = "computes its weight from other tensors (weight_norm, spectral_norm, prune or similar)"
        return f"{reason}; remove that and apply it again afterwards, or leave the layer out with layers="
    if any(is_lazy(parameter) for parameter in parameters):
        return "has no shape yet; run the model on one batch first"
    if not all(parameter.is_floating_point() for parameter in parameters):
        return f"has a weight of {parameters[0].dtype}; real floating-point numbers are needed"
    if parameters[0].numel() == 0:
        return "has an empty weight"
    transposed = isinstance(module, TRANSPOSED)
    groups = 1 if transposed else int(getattr(module, "groups", 1))
    outputs = parameters[0].shape[1 if transposed else 0]
    if type(layer) is WeightLayer and outputs % (layer.pieces * groups):
        return f"cannot be divided: {outputs} outputs, {groups} groups, {layer.pieces} pieces"
    return None
