"""Small data sets on disk, and a cache of their own for every test."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from replicate.data import folder
from replicate.data.dataset import Dataset


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("REPLICATE_CACHE", str(path))
    return path


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only get in each other's way with tensors as small as these."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def real_images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    """6,102 images of CIFAR-10 with their exact pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLICATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder.read(Path(os.environ["REPLICATE_TEST_IMAGES"]) / "cifar10-lossless-6k", "real")
