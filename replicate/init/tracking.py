"""Watch the function calls of forward passes for the first use of each weight layer."""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from replicate.init import memory
from replicate.init.calls import Use, uses_in
from replicate.init.following import Follower, tensors_in
from replicate.init.layers import WeightLayer
from replicate.init.origins import Origins
from replicate.init.packed import packed_uses
from replicate.init.survey import Survey

OnCall = Callable[[WeightLayer, "Call"], None]
BeforeCall = Callable[[WeightLayer], None]


@dataclass(slots=True)
class FunctionCall:
    """A call of a function, which can be repeated with the present weights. Keeps what the latest call returned."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None

    def run(self) -> None:
        """Call the function."""
        self.output = self.function(*self.args, **self.kwargs)


@dataclass(frozen=True, slots=True)
class Call:
    """The first use of a weight layer in a forward pass. The model continues with the output of the latest `run`.

    Args:
        layer: the layer.
        use: its weight, and where its pre-activation is found.
        function_call: applies the weight. One call may apply those of several layers.
    """

    layer: WeightLayer
    use: Use
    function_call: FunctionCall

    def run(self) -> None:
        """Apply the present weight again to the same input. Not for weights that are computed from parameters."""
        torch.clear_autocast_cache()  # the model may use autocast, whose copies of the weights are out of date
        self.function_call.run()

    def values(self) -> list[Tensor]:
        """Return the pre-activation of each piece; none if the weight has no pre-activation of its own."""
        if self.use.values is None:
            return []
        return self.layer.values(self.use.values(self.function_call.output))

    def norms(self) -> list[float]:
        """Return the L2 norm of the weight of each piece, as it was applied."""
        weight = self.use.weight.double()
        return [float(self.layer.part(weight, piece).norm()) for piece in range(self.layer.pieces)]


class FirstCallTracker(TorchFunctionMode):
    """Reports the first call of each layer in one forward pass.

    Args:
        survey: of the model. Layers that it does not know yet are added.
        on_call: called with a layer and its call, right after the call.
        before_call: called with a layer, right before its call.
        follower: follows the outputs of the layers.
    """

    def __init__(
        self, survey: Survey, on_call: OnCall, before_call: BeforeCall, follower: Follower | None = None
    ) -> None:
        super().__init__()
        self.survey, self.on_call, self.before_call, self.follower = survey, on_call, before_call, follower
        self.running: list[nn.Module] = []  # the innermost last
        self._origins = Origins(survey)
        self._seen: set[Hashable] = set()

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = FunctionCall(func, args, kwargs or {})
        tensors = list(tensors_in((args, kwargs)))
        applied, first = self._find_layers(call, tensors)
        for layer, _ in first:
            self.before_call(layer)
        if first:
            torch.clear_autocast_cache()  # of the copies of weights that `before_call` may have changed
        call.run()
        for layer, layer_call in first:
            self.on_call(layer, layer_call)
        self._note(call, tensors, applied, [layer for layer, _ in first])
        return call.output

    def _find_layers(
        self, call: FunctionCall, tensors: list[Tensor]
    ) -> tuple[set[nn.Parameter], list[tuple[WeightLayer, Call]]]:
        """Find the weights in a function call.

        Returns:
            The parameters that the call applies, and the layers of which this is the first call.
        """
        applied: set[nn.Parameter] = set()
        first: list[tuple[WeightLayer, Call]] = []
        for use in self._uses(call, tensors):
            self._origins.note_weight(use.weight)
            roots = self._origins.roots(use.weight)
            if sum(not roots.isdisjoint(self._origins.roots(tensor)) for tensor in tensors) > 1:  # also its own input
                self.survey.other_uses.update(dict.fromkeys(roots, call.function.__name__))
                continue
            key, layer = self.survey.find(use, self._origins.computed(use.weight), self.running)
            if layer is not None:
                applied.add(layer.parameter)
                if key not in self._seen and self.survey.selects(layer.name, layer.module):
                    first.append((layer, Call(layer, use, call)))
            self._seen.add(key)
        return applied, first

    def _uses(self, call: FunctionCall, tensors: list[Tensor]) -> list[Use]:
        # Inside torch.vmap tensors have no memory, and no number can be read from them.
        in_vmap = any(tensor.numel() and not memory.address(tensor) for tensor in tensors)
        if in_vmap or self._computes_weight():
            return []
        uses = uses_in(call.function, call.args, call.kwargs, self._origins.is_weight)
        uses = uses or packed_uses(call.function, call.args, call.kwargs)
        return [use for use in uses if isinstance(use.weight, Tensor)]

    def _computes_weight(self) -> bool:
        """Whether a parametrisation is running. The functions that it calls are not layers: they compute a weight."""
        return any(isinstance(module, ParametrizationList) for module in self.running)

    def _note(
        self, call: FunctionCall, tensors: list[Tensor], applied: set[nn.Parameter], layers: list[WeightLayer]
    ) -> None:
        """Note where the output of a function comes from, and what the function does with the outputs of layers."""
        name = call.function.__name__
        if applied:
            self._origins.note_applied(tensors, call.output, applied, layers)
        elif tensors:
            self._origins.note(name, tensors, call.args, call.output, self._computes_weight())
        if self.follower is not None:
            data = [tensor for tensor in tensors if not self._origins.is_constant(tensor)]
            self.follower.note(name.strip("_"), data, call.output, bool(applied))
            for layer in layers:
                self.follower.start(layer, call.output)


@contextlib.contextmanager
def track_calls(
    survey: Survey, on_call: OnCall, before_call: BeforeCall = lambda _: None, follower: Follower | None = None
) -> Iterator[None]:
    """Track the first calls of layers in one forward pass: see `FirstCallTracker`. No hook is left behind."""
    tracker = FirstCallTracker(survey, on_call, before_call, follower)
    thread = threading.get_ident()  # modules of other threads run these hooks as well

    def enter(module: nn.Module, _: Any) -> None:
        if threading.get_ident() == thread:
            tracker.running.append(module)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        if threading.get_ident() == thread:
            tracker.running.pop()

    with contextlib.ExitStack() as stack:
        stack.enter_context(register_module_forward_pre_hook(enter))
        stack.enter_context(register_module_forward_hook(leave, always_call=True))
        stack.enter_context(tracker)
        yield
