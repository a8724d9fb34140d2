"""The activations of Table 3, and those of the lecture notes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Released code: `negative_slope: 0.333`; the paper's "very leaky" ReLU has slope 1/3.
VLRELU_SLOPE = 1 / 3


class _MaxOfPieces(torch.autograd.Function):
    """Maximum over pieces, whose gradient goes to the first largest piece, as in Caffe's elementwise maximum.

    `amax` differs only in ties, whose gradient it divides among the pieces. But it loses the channels_last layout, and
    its backward pass reads the data several times: with this class, a maxout net of width 0.25 trains 1.9 times as fast
    on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, pieces: int) -> Tensor:
        ctx.pieces, ctx.like = pieces, torch.empty_like(x, device="meta")  # shape and memory format, without the data
        best, *rest = _split(x, pieces)
        larger = []
        for piece in rest:
            larger.append(piece > best)
            best = torch.maximum(best, piece)
        ctx.save_for_backward(*larger)
        return best

    @staticmethod
    def backward(ctx: Any, remaining: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return _differentiable_backward(remaining, ctx.saved_tensors), None
        grad = torch.empty_like(ctx.like, dtype=remaining.dtype, device=remaining.device)
        pieces = _split(grad, ctx.pieces)
        # From the last piece to the first: a piece takes the remaining gradient where it is larger than all before it.
        for number, larger in reversed(list(enumerate(ctx.saved_tensors, start=1))):
            torch.mul(remaining, larger, out=pieces[number])
            remaining = torch.mul(remaining, ~larger, out=pieces[0] if number == 1 else None)
        return grad, None


def _differentiable_backward(remaining: Tensor, larger: tuple[Tensor, ...]) -> Tensor:
    """Compute the same as `_MaxOfPieces.backward` by operations that autograd records."""
    pieces = []
    for mask in reversed(larger):
        pieces.append(remaining * mask)
        remaining = remaining * ~mask
    return torch.stack([remaining, *reversed(pieces)], 2).flatten(1, 2)  # k × (n c …) -> n c k … -> n c·k …


def _split(x: Tensor, pieces: int) -> tuple[Tensor, ...]:
    return torch.unflatten(x, 1, (-1, pieces)).unbind(2)  # n c·k … -> n c k … -> k × (n c …)


def _fusible_max(x: Tensor, pieces: int) -> Tensor:
    """Compute the same by operations that torch.compile can fuse; NaN is the maximum, as in torch.maximum."""
    best, *rest = _split(x, pieces)
    for piece in rest:
        best = torch.where((piece > best) | piece.isnan(), piece, best)
    return best


class Maxout(nn.Module):
    """Maximum over the pieces of a layer: (n, c·pieces, …) -> (n, c, …).

    The layer before it has `pieces` times as many outputs; piece p of channel c is its output c·pieces + p, the same
    slice as `weight.unflatten(0, (-1, pieces))[:, p]`.

    Args:
        pieces: linear pieces per unit, at least 2.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum of each unit's pieces."""
        if torch.compiler.is_compiling():
            return _fusible_max(x, self.pieces)
        return _MaxOfPieces.apply(x, self.pieces)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Show the pieces in the printed network."""
        return f"pieces={self.pieces}"


class Activation(NamedTuple):
    """What a network and an initialisation need to know about an activation.

    Args:
        module: makes the module that follows a layer, given the number of the layer's pieces.
        conv_pieces: linear pieces of a convolution, 1 for every activation except maxout.
        hidden_pieces: linear pieces of the hidden fully connected layer, 1 for every activation except maxout.
        negative_slope: slope for negative input, for which OrthoNorm-MSRA scaled corrects.
    """

    module: Callable[[int], nn.Module]
    conv_pieces: int = 1
    hidden_pieces: int = 1
    negative_slope: float = 0.0


# Released code: two pieces in each convolution, five in the fully connected layer.
MAXOUT = Activation(Maxout, conv_pieces=2, hidden_pieces=5)
RELU = Activation(lambda _: nn.ReLU())
VLRELU = Activation(lambda _: nn.LeakyReLU(VLRELU_SLOPE), negative_slope=VLRELU_SLOPE)
TANH = Activation(lambda _: nn.Tanh())
SIGMOID = Activation(lambda _: nn.Sigmoid())
LEAKY_RELU = Activation(lambda _: nn.LeakyReLU(0.01), negative_slope=0.01)
LEAKY_RELU_01 = Activation(lambda _: nn.LeakyReLU(0.1), negative_slope=0.1)
# One slope per layer, from 0.25 on and without weight decay, as in He et al. 2015 (there are also slopes per channel).
PRELU = Activation(lambda _: nn.PReLU(), negative_slope=0.25)
ELU = Activation(lambda _: nn.ELU())
SELU = Activation(lambda _: nn.SELU())
SILU = Activation(lambda _: nn.SiLU())
GELU = Activation(lambda _: nn.GELU())
