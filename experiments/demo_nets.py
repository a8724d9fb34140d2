"""The nets of demo.py: fully connected, deep, and trained on the embedded shapes."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.data import load
from replicate.init import LSUVWarning, initialize_, lsuv_
from replicate.nn.activations import VLRELU_SLOPE, Maxout
from replicate.store.result import status_of

WIDTH, BATCH, CLASSES = 64, 128, 10
INITS = {
    "torch": "PyTorch default", "xavier": "Xavier", "msra": "MSRA", "orthonormal": "OrthoNorm", "lsuv": "LSUV"
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "VLReLU": lambda: nn.LeakyReLU(VLRELU_SLOPE),
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "ELU": nn.ELU,
    "tanh": nn.Tanh,
    "maxout": lambda: Maxout(2),
}


@dataclass(frozen=True)
class Training:
    """One training: what it started from, and what came out.

    Args:
        activation: one of ACTIVATIONS.
        init: one of INITS.
        seed: of the weights and of the order of the images.
        variances: of each hidden layer's pre-activations before the training, on the first batch.
        losses: of each iteration's batch, in nats.
        accuracy: on the test images, in %; None if the loss became infinite or NaN.
    """

    activation: str
    init: str
    seed: int
    variances: list[float]
    losses: list[float]
    accuracy: float | None

    @property
    def outcome(self) -> str:
        """How it ended: `converged`, `not_converged` (at chance) or `diverged`."""
        return "diverged" if self.accuracy is None else status_of(self.accuracy, CLASSES)


@cache
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (n, 768) and labels (n,), and test images and labels."""
    shapes = load("synthetic", Path())
    train, test = (
        F.avg_pool2d(torch.tensor(images) / 255, 2).flatten(1)  # n 3 32 32 -> n 768
        for images in (shapes.train_images, shapes.test_images)
    )
    mean, deviation = train.mean(), train.std()
    train_labels, test_labels = torch.tensor(shapes.train_labels), torch.tensor(shapes.test_labels)
    return (train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels


def train(activation: str, init: str, seed: int, depth: int, iterations: int) -> Training:
    """Train one net on one thread.

    Args:
        activation: one of ACTIVATIONS.
        init: one of INITS.
        seed: of the weights and of the order of the images.
        depth: number of hidden layers.
        iterations: number of iterations.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = data()
    pieces = 2 if activation == "maxout" else 1
    sizes = [images.shape[1], *[WIDTH] * depth]
    hidden = [(nn.Linear(one, WIDTH * pieces), ACTIVATIONS[activation]()) for one in sizes[:-1]]
    net = nn.Sequential(*(layer for pair in hidden for layer in pair), nn.Linear(WIDTH, CLASSES))

    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(images), generator=generator)[:BATCH] for _ in range(iterations)]
    first = images[batches[0]]
    with warnings.catch_warnings():  # what a formula does to the variances is what we are about to show
        warnings.simplefilter("ignore", LSUVWarning)
        if init == "lsuv":
            lsuv_(net, first, dropout=False, generator=generator)
        elif init != "torch":
            initialize_(net, init, first, generator=generator)
    variances = list(_variances(net, first))

    losses: list[float] = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for batch in batches:
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return Training(activation, init, seed, variances, losses, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = net(test_images).argmax(1) == test_labels
    return Training(activation, init, seed, variances, losses, 100 * right.float().mean().item())


@torch.no_grad()
def _variances(net: nn.Sequential, x: Tensor) -> Iterator[float]:
    for layer in net[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            yield x.var(correction=0).item()
