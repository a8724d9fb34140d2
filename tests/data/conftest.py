"""Small data sets on disk, and a separate cache for every test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("REPLICATE_CACHE", str(path))
    return path


@pytest.fixture
def write_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set of random PNG images: `write_folder("cat", "dog")`."""

    def write(*classes: str, name: str = "pets", train: int = 3, test: int = 2) -> Path:
        rng = np.random.default_rng(0)
        root = tmp_path / "data" / name
        for split, count in (("train", train), ("test", test)):
            for kind in classes:
                (root / split / kind).mkdir(parents=True)
                for index in range(count):
                    pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / split / kind / f"{index}.png")
        return root

    return write
