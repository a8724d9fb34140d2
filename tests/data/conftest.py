"""A small data set on disk, and a separate cache for every test."""

from pathlib import Path

import pytest
from made_images import image_folder


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("REPLICATE_CACHE", str(path))
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images of the classes cat and dog."""
    return image_folder(tmp_path / "data" / "pets", train=6, test=4)
