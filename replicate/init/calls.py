"""Which arguments of a function call are weights, and what linear maps and pre-activations they have.

A weight layer is found by what is called, not by the class of a module: `F.linear(x, self.weight)`, `x @ self.weight`
and `torch.einsum("bi,oi->bo", x, self.weight)` apply the same weight.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IsWeight = Callable[[object], bool]  # whether a value is a parameter, a view of one, or computed from parameters


def _unchanged(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a weight has its linear maps and its outputs.

    Args:
        arrange: returns a view (maps…, out…, in…) of the weight, or of a part of it that has fewer outputs.
        maps: number of axes that count linear maps, such as the groups of a convolution.
        outs: number of axes that count outputs.
        axis: the axis of the weight that counts its outputs; the pieces of a maxout layer alternate along it. None:
            there is no such axis.
        channels: the axis of the same outputs in the pre-activation, counted from the end.
        slices: number of equal consecutive slices along axis 0, each with a pre-activation of its own.
        gates: the slices whose values only gate others.
    """

    arrange: Callable[[Tensor], Tensor] = _unchanged
    maps: int = 0
    outs: int = 1
    axis: int | None = 0
    channels: int = -1
    slices: int = 1
    gates: tuple[int, ...] = ()

    def outputs(self, weight: Tensor) -> tuple[int, int]:
        """Return the number of outputs of one linear map, and of all."""
        shape = self.arrange(weight).shape
        each = math.prod(shape[self.maps : self.maps + self.outs])
        return each, each * math.prod(shape[: self.maps])

    def blocks(self, weight: Tensor) -> Iterator[Tensor]:
        """Yield a view (out…, in…) of each linear map of a weight."""
        arranged = self.arrange(weight)
        for index in itertools.product(*map(range, arranged.shape[: self.maps])):
            yield arranged[index]


@dataclass(frozen=True, slots=True)
class Use:
    """A weight in one function call.

    Args:
        weight: the argument.
        bias: the bias that the same call adds to the pre-activation, if there is one.
        layout: of the weight.
        values: takes what the function returned, and returns the pre-activation, or for packed weights a list with that
            of each slice. None: the weight has no pre-activation of its own.
    """

    weight: Tensor
    bias: Tensor | None = None
    layout: Layout = Layout()
    values: Callable[[Any], Tensor | list[Tensor]] | None = _unchanged


Arguments = Mapping[str, Any]
Finder = Callable[[Arguments, IsWeight], list[Use]]


def _linear(given: Arguments, _: IsWeight) -> list[Use]:
    return [Use(given["weight"], given.get("bias"))]


def _convolution(given: Arguments, _: IsWeight) -> list[Use]:
    groups, weight = given.get("groups", 1), given["weight"]
    # g·out in … -> g out in …
    layout = Layout(lambda w: torch.unflatten(w, 0, (groups, -1)), maps=1, channels=1 - weight.ndim)
    return [Use(weight, given.get("bias"), layout)]


def _transposed(given: Arguments, _: IsWeight) -> list[Use]:
    groups, weight = given.get("groups", 1), given["weight"]
    # Divided along the inputs: g·in out … -> g in out … -> g out in …
    layout = Layout(
        lambda w: torch.unflatten(w, 0, (groups, -1)).transpose(1, 2), maps=1, axis=1, channels=1 - weight.ndim
    )
    return [Use(weight, given.get("bias"), layout)]


def _product(left: str, right: str, added: str | None = None) -> Finder:
    """Matrix products of these arguments: one is a weight, the other holds data. `added` is added to the product."""

    def find(given: Arguments, is_weight: IsWeight) -> list[Use]:
        first, second = given[left], given[right]
        if is_weight(first) == is_weight(second) or (second if is_weight(second) else first).ndim < 2:
            return []
        if is_weight(second):  # … in out -> … out in
            weight, layout = second, Layout(lambda w: w.mT, maps=second.ndim - 2, axis=second.ndim - 1)
        else:
            channels = -1 if second.ndim == 1 else -2
            weight, layout = first, Layout(maps=first.ndim - 2, axis=first.ndim - 2, channels=channels)
        if added is None or (is_weight(given[added]) and given[added].numel() in layout.outputs(weight)):
            return [Use(weight, given.get(added or ""), layout)]
        # No bias is added, but data, such as what a residual connection passes on.
        return [Use(weight, None, layout, lambda output: output - given.get("beta", 1) * given[added])]

    return find


def _einsum(given: Arguments, is_weight: IsWeight) -> list[Use]:
    """Einstein sums over data and one weight, in which each letter occurs at most once per operand."""
    equation, operands = given["equation"], given["operands"]
    if not isinstance(equation, str):  # operands and lists of numbers take turns
        return []
    operands = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    weights = [index for index, operand in enumerate(operands) if is_weight(operand)]
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(weights) != 1 or len(terms) != len(operands):
        return []
    letters = terms.pop(weights[0])
    if not arrow:
        counts = Counter(inputs.replace(",", ""))
        output = "".join(sorted(letter for letter, count in counts.items() if count == 1))
    others = "".join(terms)
    maps = [letter for letter in letters if letter in output and letter in others]
    outs = [letter for letter in letters if letter in output and letter not in others]
    ins = [letter for letter in letters if letter not in output]
    if not ins or "." in letters or len(set(letters)) < len(letters):
        return []
    order = tuple(letters.index(letter) for letter in (*maps, *outs, *ins))
    axis, channels = (letters.index(outs[0]), output.index(outs[0]) - len(output)) if len(outs) == 1 else (None, -1)
    layout = Layout(lambda w: w.permute(order), maps=len(maps), outs=len(outs), axis=axis, channels=channels)
    return [Use(operands[weights[0]], layout=layout)]


_CONVOLUTION = "input weight bias stride padding dilation groups"
_TRANSPOSED = "input weight bias stride padding output_padding groups dilation"
# name of a function -> the names of its positional arguments, and what finds its weights
_FUNCTIONS: dict[str, tuple[str, Finder]] = {
    "linear": ("input weight bias", _linear),
    "bilinear": ("input1 input2 weight bias", _linear),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), (_CONVOLUTION, _convolution)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), (_TRANSPOSED, _transposed)),
    "matmul": ("input other", _product("input", "other")),
    "__rmatmul__": ("self other", _product("other", "self")),
    "mm": ("input mat2", _product("input", "mat2")),
    "bmm": ("input mat2", _product("input", "mat2")),
    "addmm": ("input mat1 mat2", _product("mat1", "mat2", "input")),
    "baddbmm": ("input batch1 batch2", _product("batch1", "batch2", "input")),
    **dict.fromkeys(("_grouped_mm", "grouped_mm"), ("mat_a mat_b", _product("mat_a", "mat_b"))),
}


def uses_in(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], is_weight: IsWeight
) -> list[Use]:
    """Find the weight in a function call: at most one, which is a parameter or computed from parameters."""
    name = function.__name__.partition(".")[0]  # torch.ops.aten.mm.default
    if name == "einsum":
        return _einsum({"equation": args[0], "operands": args[1:]}, is_weight)
    if name not in _FUNCTIONS:
        return []
    names, find = _FUNCTIONS[name]
    return find(dict(zip(names.split(), args, strict=False)) | dict(kwargs), is_weight)
