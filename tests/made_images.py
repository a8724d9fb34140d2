"""Small data sets: folders of random images of a few classes, JPEG copies of them, and files as MNIST has them."""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def image_folder(root: Path, train: int, test: int, kinds: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Write a data set of 32 x 32 images, `ROOT/{train,test}/<class>/<number>.png`, the classes in turn."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            path = root / split / kinds[number % len(kinds)] / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # a few large patches, which JPEG leaves recognisable
            patches = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(patches).resize((32, 32), Image.Resampling.NEAREST).save(path)
    return root


def jpeg_copies(images: Path, root: Path) -> Path:
    """Write JPEG copies of such a data set, named by their number within the class, and return their ROOT."""
    for path in images.rglob("*.png"):
        target = root / path.relative_to(images).with_name(f"{int(path.stem) // 2:04}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target, quality=60)
    return root


def patches(split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images uint8 (count, 28, 28) of noise, and their labels, 0 to 9 in turn: the place of a bright patch."""
    images = np.random.default_rng(len(split)).integers(0, 100, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % 10
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 4)
        image[9 * row : 9 * row + 7, 7 * column : 7 * column + 6] += 150
    return images, labels


def mnist_files(folder: Path, train: int, test: int) -> dict[str, str]:
    """Write such images and labels in the format of MNIST's four files. Return their names and MD5s."""
    folder.mkdir(parents=True)
    digests = {}
    for prefix, split, count in (("train", "train", train), ("t10k", "test", test)):
        images, labels = patches(split, count)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels.astype(np.uint8))):
            # two zeros, the type of the values (8: unsigned bytes), the number of axes; the length of each axis
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))
            digests[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    return digests


def png(depth: int, colour: int, samples: Sequence[int], **chunks: bytes) -> bytes:
    """Write a PNG file of 32 x 32 pixels by the standard, since Pillow does not write every kind.

    Args:
        depth: bits of a sample.
        colour: 0: grey, 2: RGB, 3: palette, 4: grey and alpha, 6: RGB and alpha.
        samples: of all pixels, row by row; they are repeated until the image is full.
        chunks: name -> content of further chunks before the pixels: `PLTE`, `tRNS`.
    """
    per_row = 32 * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    values = np.resize(samples, 32 * per_row).astype(">u2").view(np.uint8).reshape(-1, 2)
    rows = np.packbits(np.unpackbits(values, axis=1)[:, -depth:].reshape(32, -1), axis=1)
    parts = {
        "IHDR": struct.pack(">IIBBBBB", 32, 32, depth, colour, 0, 0, 0),
        **chunks,
        "IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        "IEND": b"",
    }
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in parts.items():
        body = name.encode() + content
        data += struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
    return data
