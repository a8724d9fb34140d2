"""Counting and timing of the benchmark."""

import time
from pathlib import Path

import pytest

from replicate.bench.measure import matmul_rate, measure
from replicate.bench.work import multiply_adds
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.options import Options
from replicate.run import Run


@pytest.mark.parametrize("path", ["ours", "graph", "baseline"])
def test_a_training_is_measured_in_windows_once_the_gate_is_open(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.bench.measure.IMAGES", 200)
    monkeypatch.setattr("replicate.bench.measure.BASELINE_WORKERS", 0)
    run = Run("xavier", "relu", width=0.125, batch_size=8, precision="32-true")
    gate = tmp_path / "gate"
    heard: list[str] = []

    def send(word: str) -> None:
        heard.append(word)
        gate.touch()

    speed = measure(path, run, Options(tmp_path), time.time(), gate, 3, 0.1, send)
    assert heard == ["ready"]
    assert len(speed.rates) == 3
    assert min(speed.rates) > 0
    assert speed.startup > 0
    assert speed.peak_memory > 2**20
    net = build(FITNET4, ACTIVATIONS["relu"], width=0.125)
    assert speed.work.operations == 6 * 8 * multiply_adds(net)


def test_the_ceiling_is_a_rate(tmp_path: Path) -> None:
    rate, name = matmul_rate(Options(tmp_path), False, lambda: None)
    assert 1e8 < rate < 1e14
    assert name == ""
