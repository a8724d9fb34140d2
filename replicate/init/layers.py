"""Weight layers as the initialisations see them: their pieces, their weights and biases, their pre-activations."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init.errors import LSUVError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Batch normalisation, embeddings and the like have weights too, but no pre-activation that their scale is meant to set.
WEIGHT_LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


@dataclass(slots=True)
class Call:
    """One call of a module: what it took, what it returned, and how to run it again on the same input.

    Args:
        args: as they came in, before any other hook saw them.
        kwargs: likewise.
        output: of the last run.
        run: calls the module with its present weights, user's hooks and all.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    run: Callable[[], Any]

    def again(self) -> None:
        """Run the module once more."""
        self.output = self.run()


@dataclass(frozen=True, slots=True)
class WeightLayer:
    """A linear, bilinear or convolutional layer, or a maxout layer: one with an integer attribute `pieces` above 1.

    Args:
        name: the module's name in its model.
        module: has `weight` (pieces·out, in, …), transposed convolutions (in, pieces·out, …), and perhaps `bias`.
        applied_by: the module whose forward applies the weight, where that is another one: `nn.MultiheadAttention`
            uses its `out_proj` without calling it.
    """

    name: str
    module: nn.Module
    applied_by: nn.Module | None = field(default=None, kw_only=True)

    @property
    def source(self) -> nn.Module:
        """The module whose call shows the pre-activation."""
        return self.applied_by or self.module

    @property
    def pieces(self) -> int:
        """Linear pieces of a maxout layer, else 1."""
        return int(getattr(self.module, "pieces", 1))

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that hold the weight."""
        return [self.module.get_parameter("weight")]

    def biases(self) -> list[nn.Parameter]:
        """The parameters that hold the bias: one or none."""
        return [] if getattr(self.module, "bias", None) is None else [self.module.get_parameter("bias")]

    def weight(self, piece: int) -> Tensor:
        """View of the weight of one piece: (out, in, …), transposed (in, out, …). Writing to it changes the layer."""
        axis = int(isinstance(self.module, TRANSPOSED))
        # n·k in … -> n k in … -> n in …
        return torch.unflatten(self.parameters()[0].detach(), axis, (-1, self.pieces)).select(axis + 1, piece)

    def bias(self, piece: int) -> Tensor | None:
        """View of the bias of one piece: (out,)."""
        found = self.biases()
        return torch.unflatten(found[0].detach(), 0, (-1, self.pieces))[:, piece] if found else None

    def tensors(self, piece: int) -> list[Tensor]:
        """Views of all that belongs to one piece: its weight and, if there is one, its bias."""
        bias = self.bias(piece)
        return [self.weight(piece)] if bias is None else [self.weight(piece), bias]

    def blocks(self, piece: int) -> list[Tensor]:
        """Views (out, in, …) of the linear maps of which a piece consists: one for each group of a convolution."""
        groups = int(getattr(self.module, "groups", 1))
        # Transposed convolutions are cut along their inputs: g·in out … -> g in out … -> g out in …
        blocks = list(torch.unflatten(self.weight(piece), 0, (groups, -1)))
        return [block.transpose(0, 1) for block in blocks] if isinstance(self.module, TRANSPOSED) else blocks

    def values(self, call: Call) -> list[Tensor]:
        """Pre-activation of each piece in one call.

        The output is (n, pieces·out, …) or without n, of linear layers (…, pieces·out); of a tuple, the first entry.

        Raises:
            LSUVError: the output is no tensor, or not that of all pieces.
        """
        output = call.output[0] if isinstance(call.output, tuple) else call.output
        if not isinstance(output, Tensor):
            raise LSUVError(f"layer {self.name!r} returns no tensor but {type(output).__name__}")
        if self.pieces == 1:
            return [output.detach()]
        weight = self.parameters()[0]
        last = isinstance(self.module, (nn.Linear, nn.Bilinear)) or weight.ndim == 2
        channels = output.ndim - (1 if last else weight.ndim - 1)
        outputs = sum(block.shape[0] for piece in range(self.pieces) for block in self.blocks(piece))
        if output.shape[channels] != outputs:
            raise LSUVError(
                f"maxout layer {self.name!r} returns {output.shape[channels]} channels, not all its pieces' {outputs}; "
                "the maximum belongs into a module of its own"
            )
        pieces = torch.unflatten(output.detach(), channels, (-1, self.pieces))  # n c·k … -> n c k …
        return [pieces.select(channels + 1, p) for p in range(self.pieces)]


class AttentionInput(WeightLayer):
    """The input projections of `nn.MultiheadAttention`: its query, key and value are pieces 0, 1 and 2."""

    __slots__ = ()

    @property
    def pieces(self) -> int:
        """Query, key and value."""
        return 3

    def parameters(self) -> list[nn.Parameter]:
        """One packed parameter, or three where key and value have other widths than the query."""
        packed = self.module.in_proj_weight
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight") if packed is None else ("in_proj_weight",)
        return [self.module.get_parameter(name) for name in names]

    def biases(self) -> list[nn.Parameter]:
        """The packed bias."""
        return [] if self.module.in_proj_bias is None else [self.module.get_parameter("in_proj_bias")]

    def weight(self, piece: int) -> Tensor:
        """View of one projection's weight: (out, in)."""
        found = self.parameters()
        return (found[piece] if len(found) == 3 else found[0].chunk(3)[piece]).detach()

    def bias(self, piece: int) -> Tensor | None:
        """View of one projection's bias: (out,)."""
        found = self.biases()
        return found[0].detach().chunk(3)[piece] if found else None

    def blocks(self, piece: int) -> list[Tensor]:
        """The projection itself."""
        return [self.weight(piece)]

    def values(self, call: Call) -> list[Tensor]:
        """Project the inputs (…, in) again: the module keeps what it projects to itself."""
        inputs = [*call.args[:3], *(call.kwargs[n] for n in ("query", "key", "value")[len(call.args) :])]
        return [F.linear(x.detach(), self.weight(p), self.bias(p)) for p, x in enumerate(inputs)]


def weight_layers(model: nn.Module) -> list[WeightLayer]:
    """Every weight layer of the model, in the order of registration."""
    found: list[WeightLayer] = []
    attentions = {m.out_proj: m for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            found.append(AttentionInput(f"{name}.in_proj".lstrip("."), module))
        elif isinstance(module, WEIGHT_LAYERS) or _has_pieces(module):
            found.append(WeightLayer(name, module, applied_by=attentions.get(module)))
    return found


def _has_pieces(module: nn.Module) -> bool:
    """Tell layers that are maxout layers by protocol alone from the activations that carry `pieces` as well."""
    return isinstance(getattr(module, "pieces", None), int) and getattr(getattr(module, "weight", None), "ndim", 0) > 1
