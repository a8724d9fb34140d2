"""A small experiment."""

from pathlib import Path

import pytest

from replicate.experiment import Experiment

FILE = """
name: small
grid: {init: [lsuv, msra], activation: [tanh, maxout], seed: [0, 1, 2]}
exclude: [{init: msra, activation: maxout}]
run: {dataset: synthetic, iterations: 100, milestones: [], batch_size: 32}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """Three cells of three seeds: lsuv × tanh, lsuv × maxout, msra × tanh."""
    (tmp_path / "small.yaml").write_text(FILE)
    return Experiment.load(tmp_path / "small.yaml")
