"""Runs and data small enough to check in a test."""

from pathlib import Path

import pytest

from replicate.data import load
from replicate.data.dataset import Dataset
from replicate.options import Options
from replicate.run import Run
from replicate.training.environment import configure


@pytest.fixture(autouse=True)
def one_thread() -> None:
    configure(Options(Path()))


@pytest.fixture(scope="session")
def shapes() -> Dataset:
    return load("synthetic", Path())


@pytest.fixture
def tiny() -> Run:
    """A net of 2 to 8 channels."""
    return Run("xavier", "relu", dataset="synthetic", width=1 / 16)
