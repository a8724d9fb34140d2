"""Runs small enough to train in a test."""

from pathlib import Path

import pytest

from replicate.data import synthetic
from replicate.options import Options
from replicate.run import Run


@pytest.fixture
def tiny() -> Run:
    """A 4-channel net on the synthetic images, for 8 iterations; LSUV rescales each layer once at most."""
    return Run(
        *("lsuv", "relu"),
        dataset="synthetic",
        width=0.125,
        iterations=8,
        milestones=[4],
        batch_size=16,
        lsuv_batch_size=16,
        lsuv_max_iter=1,
        precision="32-true",
    )


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A twentieth of the synthetic images, where their number does not matter: 100 to train on, 20 to test."""
    monkeypatch.setattr(synthetic, "TRAIN", 100)
    monkeypatch.setattr(synthetic, "TEST", 20)


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Options that write to a folder of the test."""
    return Options(out=tmp_path / "out", data_dir=tmp_path / "data")


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> int:
    """The iteration of the middle snapshot: early enough for a short run, and not at the end of a chunk of 4."""
    monkeypatch.setattr("replicate.training.measurements.EARLY", 6)
    return 6
