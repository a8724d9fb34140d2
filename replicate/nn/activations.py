"""The activations of Table 3, and the registry that names them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Released code: `negative_slope: 0.333`; the paper's "very leaky" ReLU has slope 1/3.
VLRELU_SLOPE = 1 / 3


class Maxout(nn.Module):
    """Maximum over the pieces of a layer: (n, c·pieces, …) -> (n, c, …).

    The layer before it has `pieces` times as many outputs; piece p of channel c is its output c·pieces + p, the same
    slice as `weight.unflatten(0, (-1, pieces))[:, p]`.

    Args:
        pieces: linear pieces a unit, at least 2.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Take the maximum of each unit's pieces."""
        return torch.unflatten(x, 1, (-1, self.pieces)).amax(2)  # n c·k … -> n c k … -> n c …

    def extra_repr(self) -> str:
        """Show the pieces in the printed network."""
        return f"pieces={self.pieces}"


@dataclass(frozen=True, slots=True)
class Activation:
    """What a network and an initialisation need to know of an activation.

    Args:
        module: makes the module that follows a layer with so many pieces.
        conv_pieces: linear pieces of a convolution, 1 for every activation but maxout.
        hidden_pieces: linear pieces of the hidden fully connected layer, likewise.
        negative_slope: slope for negative input, which OrthoNorm-MSRA scaled corrects for.
    """

    module: Callable[[int], nn.Module]
    conv_pieces: int = 1
    hidden_pieces: int = 1
    negative_slope: float = 0.0


ACTIVATIONS: dict[str, Activation] = {
    # Released code: two pieces in each convolution, five in the fully connected layer.
    "maxout": Activation(Maxout, conv_pieces=2, hidden_pieces=5),
    "relu": Activation(lambda _: nn.ReLU()),
    "vlrelu": Activation(lambda _: nn.LeakyReLU(VLRELU_SLOPE), negative_slope=VLRELU_SLOPE),
    "tanh": Activation(lambda _: nn.Tanh()),
    "sigmoid": Activation(lambda _: nn.Sigmoid()),
}
