"""Small models on which initialisations go wrong, each with a batch: (positional arguments)."""

from collections.abc import Callable

import torch
from compare_lsuv_cases import CASES, Graph
from torch import Tensor, nn
from torch.nn import functional as F


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def attention() -> nn.Module:
    """Query, key and value of different widths."""
    return Graph(
        lambda m, query, key, value: m.head(m.attention(query, value=value, key=key)[0]),
        attention=nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        head=nn.Linear(8, 3),
    )


class OwnMaxout(nn.Module):
    """A maxout layer only by its attributes: no subclass of torch's layers."""

    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.weight = nn.Parameter(noise(outputs * pieces, inputs, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Maximum(nn.Module):
    def __init__(self, pieces: int, dim: int = 1) -> None:
        super().__init__()
        self.pieces, self.dim = pieces, dim

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, (-1, self.pieces)).amax(self.dim + 1)


def in_pieces(layer: nn.Module, pieces: int) -> nn.Module:
    layer.pieces = pieces
    return layer


def vgg() -> nn.Module:
    blocks = [(3, 6), (6, 6), (6, 8), (8, 8)]
    convs = [m for i, o in blocks for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True))]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(8 * 36, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 4))


def maxout() -> nn.Module:
    return nn.Sequential(
        in_pieces(nn.Conv2d(4, 12, 3, groups=2), 3),
        Maximum(3),
        in_pieces(nn.ConvTranspose2d(4, 8, 3, groups=2), 2),
        Maximum(2),
        nn.Flatten(),
        OwnMaxout(144, 5, 2),
        Maximum(2),
        nn.Linear(5, 3),
    )


def transformer() -> nn.Module:
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
    return nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(block, 2, enable_nested_tensor=False), nn.Linear(8, 3))


COMPARED = ("registered in another order than called", "one layer under two parents", "bilinear")
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    **{name: (CASES[name].make, (noise(*CASES[name].shape),)) for name in COMPARED},
    "attention": (attention, (noise(8, 3, 8), noise(8, 5, 6, seed=2), noise(8, 5, 4, seed=3))),
    "transformer": (transformer, (noise(8, 6, 5),)),
    "vgg": (vgg, (noise(16, 3, 6, 6),)),
    "maxout": (maxout, (noise(16, 4, 6, 6),)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ConvTranspose1d(5, 3, 2)), (noise(8, 2, 9),)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ConvTranspose3d(4, 2, 2)), (noise(4, 2, 5, 5, 5),)),
    "unbatched": (lambda: nn.Sequential(in_pieces(nn.Conv2d(2, 8, 3), 2), Maximum(2, 0)), (noise(2, 9, 9),)),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(7)
    return ZOO[name][0]()
