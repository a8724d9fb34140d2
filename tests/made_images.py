"""Small image folders: random images of a few classes, and JPEG copies of them."""

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
