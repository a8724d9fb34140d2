"""Where the tensors of a forward pass come from: parameters, buffers, layers or data."""

from collections.abc import Iterable, MutableMapping
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from replicate.init.following import ACTIVATIONS, FACTORS, PASS_THROUGH, SUMS, tensors_in
from replicate.init.layers import Computed, WeightLayer
from replicate.init.report import GENERATES
from replicate.init.survey import INPUT, OTHER_PARAMETERS, Survey

_CASTS = {"to", "type_as", "expand_as", "view_as", "reshape_as"}  # of the second argument, only dtype and shape matter


class Origins:
    """Keeps track of what one forward pass computes from parameters and from the outputs of layers.

    Args:
        survey: of the model; learns what parameters are used for, other than as weights.
    """

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self._computed: dict[int, Computed] = {}  # by the id of the tensor, which Computed keeps alive
        # For tensors that elementwise functions have computed: from the outputs of which layers, and from which
        # parameters together with data
        self._layers: MutableMapping[Tensor, frozenset[WeightLayer]] = WeakTensorKeyDictionary()
        self._mixed: MutableMapping[Tensor, frozenset[nn.Parameter]] = WeakTensorKeyDictionary()

    def computed(self, tensor: Tensor) -> Computed | None:
        """Return from which parameters a tensor was computed; None if it is a parameter, a view of one, or data."""
        return self._computed.get(id(tensor))

    def roots(self, tensor: Tensor) -> frozenset[nn.Parameter]:
        """Return the parameters from which a tensor was computed, or of which it is a view."""
        parameter, known = self.survey.parameters.find(tensor), self.computed(tensor)
        return frozenset({parameter}) if parameter is not None else known.roots if known else frozenset()

    def _roots_of_all(self, tensors: list[Tensor]) -> frozenset[nn.Parameter]:
        return frozenset[nn.Parameter]().union(*map(self.roots, tensors))

    def is_weight(self, value: object) -> bool:
        """Whether a value is a parameter, a view of one, or computed from parameters."""
        return isinstance(value, Tensor) and bool(self.roots(value))

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor does not depend on the batch."""
        known = id(tensor) in self._computed or self.survey.parameters.is_buffer(tensor)
        return known or self.survey.parameters.find(tensor) is not None

    def note_weight(self, weight: Tensor) -> None:
        """Note a tensor that is applied as a weight. Layers or parameters that generate it cannot be normalised."""
        self.survey.excluded.update(dict.fromkeys(self._layers.get(weight, ()), GENERATES))
        self.survey.other_uses.update(dict.fromkeys(self._mixed.get(weight, ()), OTHER_PARAMETERS))

    def note_applied(
        self, tensors: list[Tensor], output: Any, applied: set[nn.Parameter], layers: Iterable[WeightLayer]
    ) -> None:
        """Note a function that applies these parameters as weights; it is the first call of these layers."""
        for parameter in self._roots_of_all(tensors) - applied:
            self.survey.other_uses.setdefault(parameter, INPUT)
        if found := frozenset(layers):
            self._layers.update(dict.fromkeys(tensors_in(output), found))

    def note(self, name: str, tensors: list[Tensor], args: tuple[Any, ...], output: Any, computes_weight: bool) -> None:
        """Note any other function.

        Args:
            name: of the function.
            tensors: its arguments.
            args: all its positional arguments.
            output: what it returned.
            computes_weight: whether it is called inside a parametrisation.
        """
        plain = name.strip("_")
        tensors = tensors[:1] if plain in _CASTS else tensors
        roots = self._roots_of_all(tensors)
        if _works_in_place(name):
            self.survey.rewritten |= self.survey.parameters.find(tensors[0]) is not None
            self._computed.pop(id(tensors[0]), None)
        is_elementwise = plain in PASS_THROUGH | SUMS | FACTORS | ACTIVATIONS
        if not (computes_weight or all(map(self.is_constant, tensors))):
            for parameter in roots:
                self.survey.other_uses.setdefault(parameter, plain)
            if is_elementwise:
                _propagate(self._mixed, tensors, output, roots)
        elif tensors and not plain.startswith("new_") and not plain.endswith("_like"):
            magnitude, axis = args[1:3] if plain == "weight_norm" else (None, None)
            for tensor in tensors_in(output):
                if not self.is_constant(tensor):
                    self._computed[id(tensor)] = Computed(tensor, roots, magnitude, axis)
        if is_elementwise:
            _propagate(self._layers, tensors, output)


def _propagate(
    origins: MutableMapping[Tensor, frozenset[Any]],
    tensors: list[Tensor],
    output: Any,
    more: frozenset[Any] = frozenset(),
) -> None:
    """Set the origins of the output to those of the arguments, and more."""
    if found := more.union(*(origins.get(tensor, ()) for tensor in tensors)):
        origins.update(dict.fromkeys(tensors_in(output), found))


def _works_in_place(name: str) -> bool:
    """Whether a function changes its first argument, such as mul_, __imul__ or __setitem__."""
    if name.endswith("__"):
        return name.startswith("__i") or name == "__setitem__"
    return name.endswith("_")
