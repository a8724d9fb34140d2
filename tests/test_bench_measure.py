"""One measured training of the benchmark: its windows, its arithmetic, and its first error."""

import time
from pathlib import Path

import pytest
from bench.measure import Speed, iteration_operations, matmul_rate, measure

from replicate.options import Options
from replicate.run import Run

RUN = Run("xavier", "relu", width=0.125, batch_size=8, precision="32-true")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 batches: no chunk of 4 is cut short, whichever the clock picks
    monkeypatch.setattr("bench.measure.IMAGES", 192)
    monkeypatch.setattr("bench.measure.BASELINE_WORKERS", 0)


@pytest.mark.parametrize("path", ["eager", "graph", "baseline"])
def test_a_training_is_measured_in_windows_once_the_gate_is_open(path: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    heard: list[str] = []

    def send(word: str) -> None:
        heard.append(word)
        gate.touch()

    speed = measure(path, RUN, Options(tmp_path), time.time(), gate, 3, 0.1, False, send)
    assert isinstance(speed, Speed)
    assert heard == ["ready"]
    assert len(speed.rates) == 3
    assert min(speed.rates) > 0
    assert speed.startup > 0
    assert not speed.kernels
    assert speed.peak_memory > 2**20
    assert speed.operations == iteration_operations(RUN)


@pytest.mark.parametrize("path", ["eager", "baseline"])
def test_the_kernels_are_listed_after_the_windows(path: str, tmp_path: Path) -> None:
    speed = measure(path, RUN, Options(tmp_path), time.time(), tmp_path, 2, 0.1, True, lambda word: None)
    assert isinstance(speed, Speed)
    assert len(speed.rates) == 2
    first, *table = speed.kernels.splitlines()
    assert first == ("4 iterations" if path == "eager" else "1 iterations")
    assert any("aten::convolution_backward" in line for line in table)


def test_a_failure_is_reported_by_its_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(name: str, *_: object) -> None:
        try:
            raise RuntimeError(f"its {name} differ\nby much")
        finally:
            raise ValueError("the capture was not ended")

    monkeypatch.setattr("replicate.training.cuda_graph._agree", disagree)
    found = measure("graph", RUN, Options(tmp_path), time.time(), tmp_path, 1, 0.1, False, lambda word: None)
    assert found == "RuntimeError: its losses differ"


# Multiply-adds of the released net, per image.
@pytest.mark.parametrize(("activation", "adds"), [("relu", 190_877_064), ("maxout", 381_941_128)])
def test_an_iteration_has_three_passes_without_the_gradient_of_the_images(activation: str, adds: int) -> None:
    first = 3 * 3 * 3 * 32 * 32 * 32 * (2 if activation == "maxout" else 1)  # of the first convolution
    assert iteration_operations(Run("lsuv", activation, batch_size=4)) == 2 * 4 * (3 * adds - first)


def test_the_ceiling_is_a_rate(tmp_path: Path) -> None:
    rate, name = matmul_rate(Options(tmp_path), False, lambda: None)
    assert 1e8 < rate < 1e14
    assert name == ""
