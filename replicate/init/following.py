"""Follow the outputs of weight layers: to their activations, and to where they only gate other values."""

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from replicate.init.layers import WeightLayer


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names of functions, without underscores at their ends: relu_ is relu
PASS_THROUGH = _names(
    """get getitem cat chunk clone contiguous detach dropout expand feature_dropout flatten float gather half movedim
    narrow neg permute repeat repeat_interleave reshape select sort split squeeze stack swapaxes t tensor_split to topk
    transpose type type_as unbind unflatten unsqueeze view view_as"""
)
SUMS = _names("add radd iadd sub isub masked_fill where")
FACTORS = _names("mul rmul imul div idiv itruediv")
PRODUCTS = _names("matmul bmm baddbmm einsum")
SQUASHING = _names("sigmoid hardsigmoid softmax")
ACTIVATIONS = _names(
    """amax celu clamp elu gelu glu hardswish hardtanh leaky_relu log_softmax logsigmoid mish prelu relu relu6 rrelu
    selu silu softplus softsign tanh"""
)

OnActivation = Callable[[WeightLayer, Tensor], None]


@dataclass(frozen=True, slots=True)
class Trail:
    """What has happened to the output of a layer so far.

    Args:
        layer: the layer.
        squashed: through a sigmoid or softmax.
        multiplied: into a matrix product with other values, as query times key.
        added: to the output of another layer.
    """

    layer: WeightLayer
    squashed: bool = False
    multiplied: bool = False
    added: bool = False


class Follower:
    """Follows the outputs of weight layers through one forward pass.

    Attributes:
        on_activation: called with a layer and the output of its activation, if there is one: the first function that
            does more than pass values through, scale them by a constant or add parameters.
        gates: layers whose output, after a sigmoid or softmax, multiplies other values.
        carries: layers whose output is also used in another way.
    """

    def __init__(self) -> None:
        self.on_activation: OnActivation = lambda layer, output: None
        self.gates: set[WeightLayer] = set()
        self.carries: set[WeightLayer] = set()
        self._trails: MutableMapping[Tensor, list[Trail]] = WeakTensorKeyDictionary()
        self._from_layers: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()

    def start(self, layer: WeightLayer, output: Any) -> None:
        """Follow the output of a layer."""
        if isinstance(output, Tensor):
            self._trails.setdefault(output, []).append(Trail(layer))
            self._from_layers[output] = True

    def note(self, name: str, values: list[Tensor], output: Any, applies_weight: bool) -> None:
        """Note what a function does with the outputs of layers.

        Args:
            name: of the function, without underscores at its ends.
            values: its arguments, in their order, without parameters and buffers.
            output: what it returned.
            applies_weight: whether it applies a weight to them.
        """
        trails = [(index, value, trail) for index, value in enumerate(values) for trail in self._trails.get(value, ())]
        if isinstance(output, Tensor) and any(output is value for value in values):
            self._trails.pop(output, None)  # changed in place
        for index, value, trail in trails:
            others = [one for one in values if one is not value and self._is_other(one, trail.layer)]
            self._follow(trail, name, index, output, others, applies_weight)
        if any(value in self._from_layers for value in values):
            self._from_layers.update(dict.fromkeys(tensors_in(output), True))

    def _is_other(self, value: Tensor, layer: WeightLayer) -> bool:
        return all(trail.layer is not layer for trail in self._trails.get(value, ()))

    def _follow(
        self, trail: Trail, name: str, index: int, output: Any, others: list[Tensor], applies_weight: bool
    ) -> None:
        is_unchanged = not (trail.squashed or trail.multiplied or trail.added)
        if is_unchanged and name in ACTIVATIONS | SQUASHING:
            self.on_activation(trail.layer, output)
        if applies_weight:
            self.carries.add(trail.layer)
        elif name == "scaled_dot_product_attention":
            (self.gates if index < 2 else self.carries).add(trail.layer)  # query and key, or value
        elif trail.squashed and others and name in FACTORS | PRODUCTS:
            self.gates.add(trail.layer)
        elif onward := self._onward(trail, name, others):
            self._propagate(onward, output)
        else:
            self.carries.add(trail.layer)

    def _onward(self, trail: Trail, name: str, others: list[Tensor]) -> Trail | None:
        """Return the trail of the function's output, or None if the trail ends."""
        # Others that come from no layer are constants to this one, such as the angles of rotary positions.
        with_layers = any(other in self._from_layers for other in others)
        if name in SQUASHING:
            return replace(trail, squashed=True)
        if name in SUMS:
            return replace(trail, added=trail.added or with_layers)
        if trail.squashed or name in PASS_THROUGH or (name in FACTORS and not with_layers):
            return trail
        return replace(trail, multiplied=True) if name in PRODUCTS else None

    def _propagate(self, trail: Trail, output: Any) -> None:
        for tensor in tensors_in(output):
            if tensor.is_floating_point():  # not the indices of a router
                known = self._trails.setdefault(tensor, [])
                if trail not in known:
                    known.append(trail)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in the arguments or the output of a function, which may be in lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(one)
