"""The data set `synthetic`: ten shapes drawn by arithmetic, for trials and tests without a download."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replicate.data.dataset import Dataset, Images, Labels, Progress, fingerprint

VERSION = 1  # raise it whenever a pixel changes: the fingerprint is made of it and of SEED
SEED = 151_106_422  # independent of a run's seed: all seeds of a cell must see the same data
TRAIN, TEST = 2_000, 500
SIDE = 32  # width and height of an image in pixels

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def _in_square(u: Floats, v: Floats) -> Bools:
    return np.maximum(abs(u), abs(v)) <= 0.9


def _stripe(x: Floats, width: float) -> Floats:
    """Number the stripes of a square from 0, at its edge."""
    return np.floor((x + 0.9) / width)


# Class -> which points (u, v) are inside a shape that fills about -1 to 1 in both directions; v points down
SHAPES: dict[str, Callable[[Floats, Floats], Bools]] = {
    "disc": lambda u, v: u * u + v * v <= 1,
    "ring": lambda u, v: abs(u * u + v * v - 0.7) <= 0.3,
    "square": _in_square,
    "frame": lambda u, v: _in_square(u, v) & (np.maximum(abs(u), abs(v)) > 0.55),
    "triangle": lambda u, v: (abs(v) <= 0.9) & (abs(u) <= (v + 0.9) * 0.55),
    "plus": lambda u, v: (np.maximum(abs(u), abs(v)) <= 1) & (np.minimum(abs(u), abs(v)) <= 0.3),
    "saltire": lambda u, v: _in_square(u, v) & (abs(abs(u) - abs(v)) <= 0.35),
    "rows": lambda u, v: _in_square(u, v) & (_stripe(v, 0.36) % 2 == 0),
    "columns": lambda u, v: _in_square(u, v) & (_stripe(u, 0.36) % 2 == 0),
    "checks": lambda u, v: _in_square(u, v) & ((_stripe(u, 0.6) + _stripe(v, 0.6)) % 2 == 0),
}


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Draw the data set: always the same pixels, on every machine.

    Position, size, colours, shading and noise are random, and a shape may be darker or lighter than its background, so
    no single pixel reveals the class: a linear model does little better than chance, while a small convolutional one
    succeeds quickly. All of it is our choice; mirroring changes no class.

    The arguments are not used; all data sets are loaded with the same ones.
    """
    images, labels = shapes(TRAIN + TEST)
    lines = [f"synthetic/version {VERSION}", f"synthetic/seed {SEED}"]
    content = fingerprint(f"{line} {hashlib.sha256(line.encode()).hexdigest()}" for line in lines)
    train, test = (images[:TRAIN], labels[:TRAIN]), (images[TRAIN:], labels[TRAIN:])
    return Dataset("synthetic shapes", content, tuple(SHAPES), *train, *test)


def shapes(count: int) -> tuple[Images, Labels]:
    """Draw images (count, 3, 32, 32) and labels (count,), the classes in turn."""
    # Raw words of the bit generator and exact arithmetic (no root, no sine): NumPy promises the same words in every
    # version, but not the same `integers` or `normal`, and a fingerprint must always mean the same pixels.
    source = np.random.PCG64(SEED)
    labels = np.arange(count, dtype=np.int64) % len(SHAPES)
    numbers = (source.random_raw(count * 12) >> np.uint64(11)).reshape(count, 12) * 2.0**-53  # uniform on [0, 1)
    size = 6 + 4 * numbers[:, 0]  # half the width of a shape in pixels
    grid = np.arange(SIDE, dtype=np.float64)
    u = (grid - (10 + 11 * numbers[:, 1, None])) / size[:, None]  # n w: horizontal position in units of the size
    v = (grid - (10 + 11 * numbers[:, 2, None])) / size[:, None]  # n h: vertical position, downwards

    inside = np.empty((count, SIDE, SIDE), dtype=bool)
    for label, shape in enumerate(SHAPES.values()):
        mine = labels == label
        inside[mine] = shape(u[mine][:, None, :], v[mine][:, :, None])  # n 1 w, n h 1 -> n h w

    middle = 0.4 + 0.2 * numbers[:, 4:7]  # n c
    contrast = np.where(numbers[:, 3, None] < 0.5, -1.0, 1.0) * (0.10 + 0.20 * numbers[:, 7:10])  # n c
    slope = (numbers[:, 10:12] - 0.5) * 0.4  # n 2: shading from edge to edge
    shading = slope[:, :1, None] * (grid / SIDE - 0.5)[:, None] + slope[:, 1:, None] * (grid / SIDE - 0.5)  # n h w
    shade = np.where(inside, 1.0, -1.0)
    words = source.random_raw(count * 3 * SIDE * SIDE // 8).astype("<u8")  # one word is the noise of eight pixels
    noise = words.view(np.uint8).reshape(count, 3, SIDE, SIDE)
    pixels = middle[:, :, None, None] + contrast[:, :, None, None] * shade[:, None] + shading[:, None]  # n c h w
    pixels += (noise / 255 - 0.5) * 0.4
    return (pixels.clip(0, 1) * 255).astype(np.uint8), labels
