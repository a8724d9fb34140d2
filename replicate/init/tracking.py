"""Watch the function calls of forward passes for the first use of each weight layer."""

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from replicate.init.calls import Use, uses_in
from replicate.init.layers import Computed, WeightLayer
from replicate.init.packed import packed_uses
from replicate.init.survey import INPUT, Survey, has_memory

OnCall = Callable[[WeightLayer, "Call"], None]
BeforeCall = Callable[[WeightLayer], None]


class FunctionCall:
    """A call of a function, which can be repeated with the present weights.

    Args:
        function: the function.
        args: positional arguments.
        kwargs: keyword arguments.
        survey: of the model.
        computed: how tensors were computed from parameters, by their id.

    Attributes:
        output: what the latest call returned.
        uses: the weights in the latest call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        survey: Survey,
        computed: dict[int, Computed],
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.output: Any = None
        self._survey, self._computed = survey, computed
        self._present: dict[int, Tensor] = {}  # by id: computed again for the latest call
        self.uses = self._find_uses(args, kwargs)

    def run(self) -> None:
        """Call the function, after the weights that are computed from parameters were computed again."""
        torch.clear_autocast_cache()  # the model may use autocast, whose copies of the weights are out of date
        self._present.clear()
        args, kwargs = tree_map_only(Tensor, self._compute, (self.args, self.kwargs))
        self.output = self.function(*args, **kwargs)
        self.uses = self._find_uses(args, kwargs)

    def _find_uses(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Use]:
        return uses_in(self.function, args, kwargs, self._is_weight) or packed_uses(self.function, args, kwargs)

    def _is_weight(self, value: object) -> bool:
        known = id(value) in self._present or id(value) in self._computed
        return isinstance(value, Tensor) and (known or self._survey.parameter_of(value) is not None)

    def _compute(self, tensor: Tensor) -> Tensor:
        if (known := self._computed.get(id(tensor))) is None:
            return tensor
        args, kwargs = tree_map_only(Tensor, self._compute, (known.args, known.kwargs))
        output = known.function(*args, **kwargs)
        present: Tensor = output if known.index is None else output[known.index]
        self._present[id(present)] = present
        return present


class Call:
    """The first use of a weight layer in a forward pass. The model continues with the output of the latest `run`.

    Args:
        layer: the layer.
        function_call: applies its weight.
        index: of the weight among those that the function applies.
    """

    def __init__(self, layer: WeightLayer, function_call: FunctionCall, index: int) -> None:
        self._layer, self._function_call, self._index = layer, function_call, index
        self.run = function_call.run

    def values(self) -> list[Tensor]:
        """Return the pre-activation of each piece; none if the weight has no pre-activation of its own."""
        values = self._function_call.uses[self._index].values
        return [] if values is None else self._layer.values(values(self._function_call.output))

    def norms(self) -> list[float]:
        """Return the L2 norm of the weight of each piece, as it was applied."""
        weight = self._function_call.uses[self._index].weight.double()
        return [float(self._layer.part(weight, piece).norm()) for piece in range(self._layer.pieces)]


class FirstCallTracker(TorchFunctionMode):
    """Reports the first call of each layer in one forward pass.

    Args:
        survey: of the model. Layers that it does not know yet are added.
        on_call: called with a layer and its call right after the call.
        before_call: called with a layer right before its call.
    """

    def __init__(self, survey: Survey, on_call: OnCall, before_call: BeforeCall) -> None:
        super().__init__()
        self.survey, self.on_call, self.before_call = survey, on_call, before_call
        self.running: list[nn.Module] = []  # the innermost last
        self._seen: set[Hashable] = set()
        self._computed: dict[int, Computed] = {}

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = list(_tensors((args, kwargs)))
        if not tensors:
            return func(*args, **(kwargs or {}))
        call = FunctionCall(func, args, kwargs or {}, self.survey, self._computed)
        found, applied = [], set()
        # Inside torch.vmap tensors have no memory, and no number can be read from them.
        for index, use in enumerate(call.uses if all(map(has_memory, tensors)) else ()):
            key, layer = self.survey.find(use, self._computed.get(id(use.weight)), self.running)
            if layer is not None:
                applied.add(layer.parameter)
                if key not in self._seen and self.survey.passes_filter(layer.name, layer.module):
                    found.append((layer, Call(layer, call, index)))
            self._seen.add(key)
        if found:
            for layer, _ in found:
                self.before_call(layer)
            call.run()
        else:
            call.output = func(*args, **(kwargs or {}))
        for layer, first_use in found:
            self.on_call(layer, first_use)
        self._note(call, tensors, applied)
        return call.output

    def _note(self, call: FunctionCall, tensors: list[Tensor], applied: set[nn.Parameter]) -> None:
        """Note what a function does with parameters other than to apply them."""
        name, roots, with_data = call.function.__name__, set[nn.Parameter](), False
        for tensor in tensors:
            parameter = self.survey.parameter_of(tensor)
            known = self._computed.get(id(tensor))
            roots |= {parameter} if parameter is not None else set(known.roots) if known else set()
            with_data |= parameter is None and known is None and not self.survey.is_buffer(tensor)
        if applied:
            for parameter in roots - applied:
                self.survey.met.setdefault(parameter, INPUT)
        elif with_data or _works_in_place(name):
            for parameter in roots:
                self.survey.met.setdefault(parameter, name)
            if _works_in_place(name):  # what it has changed cannot be computed again
                self._computed.pop(id(tensors[0]), None)
        elif not name.startswith("new_") and not name.endswith("_like"):
            several = isinstance(call.output, (tuple, list))
            matrices = tuple(root for root in roots if root.squeeze().ndim > 1)
            for index, tensor in enumerate(call.output if several else [call.output]):
                new = isinstance(tensor, Tensor) and not any(tensor is one for one in tensors)
                if new and self.survey.parameter_of(tensor) is None:
                    at = index if several else None
                    known = Computed(tensor, call.function, call.args, call.kwargs, at, matrices)
                    self._computed.setdefault(id(tensor), known)


@contextlib.contextmanager
def track_calls(survey: Survey, on_call: OnCall, before_call: BeforeCall = lambda _: None) -> Iterator[None]:
    """Track the first calls of layers in one forward pass: see `FirstCallTracker`. No hook is left behind."""
    tracker = FirstCallTracker(survey, on_call, before_call)

    def enter(module: nn.Module, _: Any) -> None:
        tracker.running.append(module)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        tracker.running.pop()

    with contextlib.ExitStack() as stack:
        stack.enter_context(register_module_forward_pre_hook(enter))
        stack.enter_context(register_module_forward_hook(leave, always_call=True))
        stack.enter_context(tracker)
        yield


def _works_in_place(name: str) -> bool:
    """Whether a function changes its first argument, such as mul_, __imul__ or __setitem__."""
    if name.endswith("__"):
        return name.startswith("__i") or name == "__setitem__"
    return name.endswith("_")


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of a function, which may be in lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)
