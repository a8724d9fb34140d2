"""Small image folders: random images of a few classes, and JPEG copies of them."""

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
