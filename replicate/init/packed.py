"""Functions that apply several weights at once: multi-head attention and recurrent layers."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from replicate.init.calls import Layout, Use

# The slices of packed weights, and which of them only gate others: input, forget and output gate of LSTM, reset and
# update gate of GRU, and query and key of attention
_RECURRENT = {
    "lstm": Layout(slices=4, gates=(0, 1, 3)),
    "gru": Layout(slices=3, gates=(0, 1)),
    "rnn_tanh": Layout(),
    "rnn_relu": Layout(),
}
_ATTENTION = Layout(slices=3, gates=(0, 1))


def packed_uses(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Use]:
    """Find the weights in a call of a function that applies several.

    Attention does not return its projections, nor a recurrent network what its deeper layers receive: both are computed
    again.

    Returns:
        The weights, in the order in which they are applied. Attention: those of query, key and value, then of the
        output. Recurrent layers: that of the input, with one slice per gate, then those of the recurrent connections,
        which have no pre-activation of their own.
    """
    if function.__name__ == "multi_head_attention_forward":
        return _attention(inspect.signature(function).bind(*args, **kwargs).arguments)
    kind = function.__name__.removesuffix("_cell")
    if kind not in _RECURRENT:
        return []
    if function.__name__.endswith("_cell"):
        return _recurrent(lambda: args[0], list(args[2:]), _RECURRENT[kind])
    return _recurrent_layers(function, list(args), _RECURRENT[kind])


def _attention(given: dict[str, Any]) -> list[Use]:
    inputs = [given[name] for name in ("query", "key", "value")]
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    if given.get("use_separate_proj_weight"):
        weights = [given[f"{letter}_proj_weight"] for letter in "qkv"]
        layouts = [Layout(gates=(0,)), Layout(gates=(0,)), Layout()]
        parts = zip(inputs, weights, _chunks(bias, 3), layouts, strict=True)
        projections = [_sliced(partial(list, [x]), w, b, layout) for x, w, b, layout in parts]
    else:
        projections = [_sliced(lambda: inputs, weight, bias, _ATTENTION)]
    return [*projections, Use(given["out_proj_weight"], given["out_proj_bias"], values=lambda output: output[0])]


def _recurrent_layers(function: Callable[..., Any], args: list[Any], layout: Layout) -> list[Use]:
    """All layers and directions of a recurrent network.

    Args:
        function: the function.
        args: the input, for packed sequences the batch sizes, the initial state, all weights, whether there are biases,
            the number of layers, the dropout between them, whether it is active, whether there are two directions, …
        layout: of its weights.
    """
    x: Tensor = args[0]
    at = 3 if isinstance(args[3], (list, tuple)) else 2  # position of the weights
    state, weights, _, depth, dropout, training, bidirectional = args[at - 1 : at + 6]
    directions = 2 if bidirectional else 1
    each = len(weights) // (depth * directions)

    def received(number: int) -> Tensor:
        """What a layer in one direction receives: the output of a network of the layers before it."""
        layer = number // directions
        if layer == 0:
            return x
        shorter = list(args)
        end = layer * directions
        shorter[at - 1] = state[:end] if isinstance(state, Tensor) else tuple(part[:end] for part in state)
        shorter[at], shorter[at + 2] = weights[: end * each], layer
        return F.dropout(function(*shorter)[0], dropout, training)

    uses = []
    for number in range(depth * directions):
        uses += _recurrent(partial(received, number), weights[number * each : (number + 1) * each], layout)
    return uses


def _recurrent(x: Callable[[], Tensor], weights: list[Tensor | None], layout: Layout) -> list[Use]:
    """One recurrent layer in one direction.

    Args:
        x: computes its input.
        weights: of the input and of the hidden state, then biases of both, if there are any, then of a projection of
            the hidden state, if there is one.
        layout: of its weights.
    """
    given = [weight for weight in weights if weight is not None]
    of_input, of_hidden, *projections = (weight for weight in given if weight.ndim > 1)
    biases: list[Tensor | None] = [weight for weight in given if weight.ndim == 1]
    bias, hidden_bias = biases or [None, None]
    return [
        _sliced(lambda: [x()] * layout.slices, of_input, bias, layout),
        Use(of_hidden, hidden_bias, layout, values=None),
        *(Use(projection, values=None) for projection in projections),
    ]


def _sliced(inputs: Callable[[], list[Tensor]], weight: Tensor, bias: Tensor | None, layout: Layout) -> Use:
    """A weight (slices·out, in) whose slices have one input each."""

    def values(_: Any) -> list[Tensor]:
        parts = zip(inputs(), weight.chunk(layout.slices), _chunks(bias, layout.slices), strict=True)
        return [F.linear(x, w, b) for x, w, b in parts]

    return Use(weight, bias, layout, values)


def _chunks(bias: Tensor | None, slices: int) -> list[Tensor | None]:
    return [None] * slices if bias is None else list(bias.chunk(slices))
