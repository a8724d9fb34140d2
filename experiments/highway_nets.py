"""The untrained highway nets of input_scale.py, and their losses at each scale of the input."""

import math
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from replicate.data.dataset import Dataset
from replicate.data.preprocessing import gcn_mean_image
from replicate.store.files import write_atomically

SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
STACKS = ((32, 4), (80, 5), (128, 5))  # channels, and the number of highway layers after the plain one


class HighwayNet:
    """The 19-layer highway net of the logs with new weights, up to the global pooling; biases are zero.

    `xavier` in that fork of Caffe is a normal distribution with variance 2 / fan_in (include/caffe/filler.hpp).

    Args:
        generator: draws the weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        def normal(out: int, fan_in: int, size: int, std: float | None = None) -> Tensor:
            deviation = math.sqrt(2 / (fan_in * size**2)) if std is None else std
            return deviation * torch.randn(out, fan_in, size, size, generator=generator)

        self.stacks = []
        channels = 3
        for width, layers in STACKS:
            # The prototxt says `value: 0.05` in the first layer, which Caffe's gaussian filler does not read: std is 1.
            plain = normal(width, channels, 3, std=1 if channels == 3 else None)
            self.stacks.append((plain, [(normal(width, width, 3), normal(width, width, 3)) for _ in range(layers)]))
            channels = width
        self.last = normal(100, channels, 1)
        # the classifiers of the two data sets: classes -> weights (classes, 100)
        self.heads = {10: normal(10, 100, 1, std=0.05).flatten(1), 100: normal(100, 100, 1).flatten(1)}

    def __call__(self, x: Tensor) -> Tensor:
        """Map images (n, 3, 32, 32) to features (n, 100)."""
        for number, (plain, layers) in enumerate(self.stacks):
            x = F.relu(F.conv2d(F.max_pool2d(x, 2) if number else x, plain, padding=1))
            for hidden, gate in layers:
                share = torch.sigmoid(F.conv2d(x, gate, padding=1) - 2)
                x = F.relu(F.conv2d(x, hidden, padding=1)) * share + x * (1 - share)
        return F.relu(F.conv2d(x, self.last)).mean((2, 3))


def first_losses(net: HighwayNet, images: Tensor) -> dict[int, float]:
    """Compute the expected test loss if each image is equally likely to be of any class.

    Args:
        net: an untrained net.
        images: (n, 3, 32, 32).

    Returns:
        Number of classes -> loss in nats.
    """
    features = net(images)
    logits = {classes: features @ head.T for classes, head in net.heads.items()}
    return {classes: (one.logsumexp(1) - one.mean(1)).mean().item() for classes, one in logits.items()}


def draw(number: int, images: Tensor, count: int) -> pd.DataFrame:
    """Draw a net, and compute its losses at each scale.

    Args:
        number: number of the draw, which seeds it.
        images: preprocessed test images (n, 3, 32, 32).
        count: how many of them to use, at random.

    Returns:
        Columns `classes`, `scale` and `loss`.
    """
    generator = torch.Generator().manual_seed(number)
    net = HighwayNet(generator)
    some = images[torch.randperm(len(images), generator=generator)[:count]].contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode():
        losses = {scale: first_losses(net, some * scale) for scale in SCALES}
    rows = [(classes, scale, loss) for scale, found in losses.items() for classes, loss in found.items()]
    return pd.DataFrame(rows, columns=["classes", "scale", "loss"])


def draw_all(file: Path, dataset: Dataset, draws: int, count: int) -> pd.DataFrame:
    """Compute the losses of all draws. Those that the file does not have are added to it, one by one."""
    test = gcn_mean_image(dataset.train_images, dataset.test_images)[1]
    about = {"fingerprint": dataset.fingerprint[:16], "images": count}
    found = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*about, "draw"])
    parts = [part for _, part in found[(found[[*about]] == [*about.values()]).all(axis=1)].groupby("draw")]
    done = {int(part["draw"].iloc[0]) for part in parts}
    for number in track(sorted({*range(draws)} - done), "drawing nets", console=Console(stderr=True)):
        losses = draw(number, test, count)
        parts.append(pd.DataFrame({**about, "draw": number}, index=losses.index).join(losses))
        write_atomically(file, pd.concat(parts).to_csv(index=False, float_format="%.7g"))
    losses = pd.concat(parts)
    return losses[losses["draw"] < draws]
