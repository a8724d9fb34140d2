"""Small models on which initialisations go wrong, each with a batch: (positional arguments)."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Crossed(nn.Module):
    """Registered in another order than called; one layer is called twice, one never; the activation is in place."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 6)
        self.first = nn.Linear(4, 6)
        self.shared = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.shared(self.act(self.shared(self.act(self.first(x))))))


class Parents(nn.Module):
    """One layer under two parents, of which the one registered last is called first."""

    def __init__(self) -> None:
        super().__init__()
        common = nn.Linear(8, 8)
        self.late = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), common)
        self.early = nn.Sequential(common, nn.Tanh(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x))


class Residual(nn.Module):
    """Identity shortcuts, in-place activations on both branches, batch normalisation that is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(3))
        self.stem = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu_(x + norm(F.relu_(conv(x))))
        return x.mean((2, 3))


class Dense(nn.Module):
    """Each layer sees the outputs of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 + 4 * i, 4, 3, padding=1) for i in reversed(range(4)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return x


class Recurrent(nn.Module):
    """One layer is called at every step of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.readout, self.state, self.input = nn.Linear(7, 3), nn.Linear(7, 7), nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_ones(x.shape[0], 7)
        for step in x.unbind(1):
            h = torch.tanh_(self.input(step) + self.state(h))
        return self.readout(h)


class Pair(nn.Module):
    """Two inputs meet in a bilinear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.meet, self.left = nn.Linear(6, 2), nn.Bilinear(5, 4, 6), nn.Linear(3, 5)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(F.relu(self.meet(self.left(left), right)))


class Attention(nn.Module):
    """Query, key and value of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.head(self.attention(query, value=value, key=key)[0])


class OwnMaxout(nn.Module):
    """A maxout layer by protocol alone: no subclass of torch's layers."""

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


class Tied(nn.Module):
    """The head's weight is the embedding's, another layer's weight is an earlier one's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.twin, self.first = nn.Linear(6, 6), nn.Linear(6, 6)
        self.twin.weight = self.first.weight
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.twin(F.relu(self.first(self.embed(x))))))


def vgg() -> nn.Module:
    blocks = [(3, 6), (6, 6), (6, 8), (8, 8)]
    convs = [m for i, o in blocks for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True))]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(8 * 36, 10), nn.ReLU(True), nn.Dropout(), nn.Linear(10, 4))


def convolutions() -> nn.Module:
    """Grouped, depthwise, transposed (grouped as well), strided and dilated ones, on 6×6 images of 4 channels."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=8),
        nn.GELU(),
        nn.ConvTranspose2d(16, 6, 2, stride=2),
        nn.LeakyReLU(0.1, inplace=True),
        nn.ConvTranspose2d(6, 9, 3, groups=3),
        nn.ELU(inplace=True),
        nn.Conv2d(9, 4, 1),
    )


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


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "crossed": (Crossed, (noise(32, 4),)),
    "parents": (Parents, (noise(32, 8),)),
    "residual": (Residual, (noise(8, 3, 6, 6),)),
    "dense": (Dense, (noise(8, 3, 6, 6),)),
    "recurrent": (Recurrent, (noise(16, 6, 5),)),
    "bilinear": (Pair, (noise(16, 3), noise(16, 4, seed=2))),
    "attention": (Attention, (noise(8, 3, 8), noise(8, 5, 6, seed=2), noise(8, 5, 4, seed=3))),
    "transformer": (transformer, (noise(8, 6, 5),)),
    "vgg": (vgg, (noise(16, 3, 6, 6),)),
    "convolutions": (convolutions, (noise(8, 4, 6, 6),)),
    "maxout": (maxout, (noise(16, 4, 6, 6),)),
    "tied": (Tied, (torch.arange(44).reshape(4, 11) % 11,)),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 3), nn.ReLU(True), nn.ConvTranspose1d(5, 3, 2)),
        (noise(8, 2, 9),),
    ),
    "conv3d": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(True), nn.ConvTranspose3d(4, 2, 2)),
        (noise(4, 2, 5, 5, 5),),
    ),
    "unbatched": (lambda: nn.Sequential(in_pieces(nn.Conv2d(2, 8, 3), 2), Maximum(2, 0)), (noise(2, 9, 9),)),
    "gru": (lambda: nn.Sequential(nn.GRU(4, 6, batch_first=True), First(), nn.Linear(6, 5)), (noise(8, 5, 4),)),
}


class First(nn.Module):
    def forward(self, x: tuple[Tensor, ...]) -> Tensor:
        return x[0]


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return copy.deepcopy(ZOO[name][0]())
