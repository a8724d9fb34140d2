"""Forward passes that look at layers: their order, the variances of all, that of one, or each as it is called."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from replicate.init.feed import Feed
from replicate.init.layers import Call, WeightLayer
from replicate.init.variance import Moments, moments

See = Callable[[WeightLayer, Call], None]
Before = Callable[[WeightLayer], None]

# Functions that apply a weight, which is their second argument
_APPLY = {F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d}
_APPLY |= {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


class _ReachedError(BaseException):
    """Ends a forward pass at the layer that was wanted. No Exception: models that catch those must let it through."""


class _Watch(TorchFunctionMode):
    """Shows the first call of each layer, by its module or, as in torchvision's Swin, by a function on its weight.

    Args:
        layers: those to look at.
        see: takes the layer and its call, right after it. The model goes on with the output that it leaves in the call.
        before: takes the layer right before its call.
    """

    def __init__(self, layers: list[WeightLayer], see: See, before: Before | None) -> None:
        super().__init__()
        self.see = see
        self.before = before
        self.waiting: dict[nn.Module, list[WeightLayer]] = {}
        self.by_weight: dict[int, WeightLayer] = {}
        for layer in layers:
            self.waiting.setdefault(layer.source, []).append(layer)
            if layer.applied_by is None and type(layer) is WeightLayer:
                self.by_weight.setdefault(id(layer.parameters()[0]), layer)
        # The hooked modules that are running, each with the layers whose first call this is, and its arguments
        self.running: list[tuple[nn.Module, list[WeightLayer], tuple[Any, ...], dict[str, Any]]] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a module's forward, and before all other hooks."""
        first = self.waiting.pop(module, [])
        self.running.append((module, first, args, kwargs))
        self._begin(first)

    def leave(self, module: nn.Module, _args: object, _kwargs: object, output: Any) -> Any:
        """After a module's forward and all other hooks, before anything in place can change the output."""
        while True:
            left, first, args, kwargs = self.running.pop()
            if left is module:  # others were left by an exception that the model caught
                break
        return self._end(first, Call(args, kwargs, output, lambda: module(*args, **kwargs)))

    def __torch_function__(
        self, func: Any, _types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        layer = None
        if func in _APPLY:
            weight = args[1] if len(args) > 1 else given.get("weight")
            layer = self.by_weight.get(id(weight))
        if layer is None or layer.module not in self.waiting or self._inside(layer):
            return func(*args, **given)
        first = self.waiting.pop(layer.module)
        self._begin(first)
        return self._end(first, Call(args, given, func(*args, **given), lambda: func(*args, **given)))

    def _inside(self, layer: WeightLayer) -> bool:
        """Whether a module that shares the layer's weight is running: then it is the one that applies it."""
        return any(layer.parameters()[0] is own for module, *_ in self.running for own in module._parameters.values())

    def _begin(self, first: list[WeightLayer]) -> None:
        if self.before is not None:
            for layer in first:
                self.before(layer)

    def _end(self, first: list[WeightLayer], call: Call) -> Any:
        for layer in first:
            self.see(layer, call)
        return call.output


@contextlib.contextmanager
def hooked(layers: list[WeightLayer], see: See, before: Before | None = None) -> Iterator[None]:
    """Watch the layers in the forward passes in here, and leave no hook behind: see `_Watch`."""
    with contextlib.ExitStack() as stack:
        watch = _Watch(layers, see, before)
        for module in watch.waiting:
            # First in, last out: other hooks work on the input after us and on the output before us.
            stack.callback(module.register_forward_pre_hook(watch.enter, prepend=True, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(watch.leave, with_kwargs=True).remove)
        stack.enter_context(watch)
        yield


def forward_order(feed: Feed, layers: list[WeightLayer]) -> list[WeightLayer]:
    """Those of the layers that a forward pass reaches, in the order of their first call."""
    called: list[WeightLayer] = []
    with hooked(layers, lambda layer, _: called.append(layer)):
        feed()
    return called


def preactivations(feed: Feed, layers: list[WeightLayer]) -> dict[WeightLayer, list[Moments]]:
    """Moments of every layer's pre-activation, piece by piece, in one forward pass, in the order of the calls."""
    found: dict[WeightLayer, list[Moments]] = {}

    def see(layer: WeightLayer, call: Call) -> None:
        found[layer] = [moments(values) for values in layer.values(call)]

    with hooked(layers, see):
        feed()
    return found


def preactivation(feed: Feed, layer: WeightLayer) -> list[Moments] | None:
    """Moments of one layer's pieces. The forward pass goes no further than that layer; None if it does not reach it."""
    calls: list[Call] = []

    def see(_: WeightLayer, call: Call) -> None:
        calls.append(call)
        raise _ReachedError

    with hooked([layer], see), contextlib.suppress(_ReachedError):
        feed()
    return [moments(values) for values in layer.values(calls[0])] if calls else None
