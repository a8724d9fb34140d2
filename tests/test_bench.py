"""experiments/bench: its command line, its measurements, and its page. The rehearsal in test_gpu_slot.py calls it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.cli import main
from bench.compare import MeasurementError, Plan, Row, carry_out
from bench.measure import iteration_operations, measure
from bench.page import Page
from bench.scheduler import queue_cost

from replicate.matrix.local import LocalLauncher
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import Run

SCRIPT = Path(__file__).parents[1] / "experiments" / "bench"
WORDS = ["--devices", "cpu", "--width", "0.125", "--at-once", "1", "--windows", "1", "--seconds", "0.1"]
ONE = ["--paths", "eager", "--activations", "relu"]
RUN = Run("xavier", "relu", width=0.125, batch_size=8, precision="32-true")
PLAN = Plan(Run("lsuv", "relu"), Options(Path()), {}, ("baseline", "eager"), ("relu",), (1, 2), 5, 5.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 batches, a multiple of every chunk of iterations
    monkeypatch.setattr("bench.measure.IMAGES", 192)
    monkeypatch.setattr("bench.measure.BASELINE_WORKERS", 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--out OUT --devices gpu", "unknown device 'gpu'; choose from: auto, cpu, or GPU numbers such as 0,1"),
        ("--out OUT --devices cpu --paths eager,graph", "unknown path on cpu 'graph'; choose from: baseline, eager"),
        ("--out OUT --at-once 1,0", "--at-once 1,0 is not a list of numbers such as 1,2,4"),
        ("--out OUT --profile nowhere/a.txt", "--profile nowhere/a.txt: there is no folder nowhere; make it"),
        ("--out /dev/null/a", "cannot write to the output folder /dev/null/a: Not a directory; give another --out"),
    ],
)
def test_wrong_usage_is_one_sentence(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.replace("OUT", str(tmp_path)).split()) == 2
    assert capsys.readouterr().err == f"bench: {message}\n"
    assert not list(tmp_path.iterdir())


def test_the_command_works_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [sys.executable, str(SCRIPT), "--activations", "swish"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.startswith("bench: unknown activation 'swish'; choose from: maxout, relu, vlrelu, tanh, sigmoid")


def test_a_failed_measurement_is_one_sentence_and_writes_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.compare.MEASURE", "builtins:int")  # a function with other parameters
    assert main(["--out", str(tmp_path), *WORDS, *ONE]) == 1
    error = capsys.readouterr().err
    assert error.startswith("bench: a measurement failed: relu, 1 at once, eager: the process ended: ")
    assert "TypeError" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_tasks_of_the_launcher() -> None:
    with LocalLauncher(preload=PRELOAD) as launcher:
        costs = dict(queue_cost(launcher, (1, 3)))
        with pytest.raises(MeasurementError, match=r"<function .*>"):
            carry_out(launcher, [("builtins:str", ())], os.environ)  # a task that returns text has failed
    assert costs.keys() == {1, 3}
    assert min(costs.values()) > 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("path", "profiled"), [("eager", False), ("baseline", True)])
def test_a_training_is_measured_in_windows_after_the_gate_opens(path: str, profiled: bool, tmp_path: Path) -> None:
    gate, sent = tmp_path / "gate", []

    def send(word: str) -> None:
        sent.append(word)
        gate.touch()

    speed = measure(path, RUN, Options(tmp_path), time.time(), gate, 3, 0.1, profiled, send)
    assert sent == ["ready"]
    assert len(speed.rates) == 3
    assert min(*speed.rates, speed.startup) > 0
    assert speed.peak_memory > 2**20
    assert speed.operations == iteration_operations(RUN)
    assert speed.kernels.startswith("1 iterations\n" if profiled else "")
    assert ("aten::convolution_backward" in speed.kernels) == profiled


@pytest.mark.usefixtures("small")
def test_a_failure_is_reported_by_its_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(name: str, *_: object) -> None:
        try:
            raise RuntimeError(f"its {name} differ\nby much")
        finally:
            raise ValueError("the capture was not ended")

    monkeypatch.setattr("replicate.training.cuda_graph._agree", disagree)
    found = measure("graph", RUN, Options(tmp_path), time.time(), tmp_path, 1, 0.1, False, lambda word: None)
    assert found == "RuntimeError: its losses differ"


# Multiply-adds of the released net, per image
@pytest.mark.parametrize(("activation", "adds"), [("relu", 190_877_064), ("maxout", 381_941_128)])
def test_an_iteration_has_three_passes_without_the_gradient_of_the_images(activation: str, adds: int) -> None:
    first = 3 * 3 * 3 * 32 * 32 * 32 * (2 if activation == "maxout" else 1)  # of the first convolution
    assert iteration_operations(Run("lsuv", activation, batch_size=4)) == 2 * 4 * (3 * adds - first)


def test_the_page_compares_rates_with_the_baseline_at_the_same_load() -> None:
    rows = (
        Row("baseline", "relu", 1, 10.0, 1280.0, 0.1, 2**20, 3.0, 147_000_000_000),
        Row("baseline", "relu", 2, 40.0, 5120.0, 0.4, 2**21, 3.0, 147_000_000_000),
        Row("eager", "relu", 2, 50.0, 6400.0, 0.5, 2**22, 2.0, 147_000_000_000),
        Row("eager", "relu", 8, 25.0, 3200.0, 0.25, 3 * 2**20, 2.0, 147_000_000_000, "4 iterations\na table\n"),
    )
    page = Page("a device", "a command", PLAN, 1e12, rows, ((1, 0.005), (200, 0.002)))
    text = page.markdown()
    for line in (
        "- Rates: medians of 5 windows of 5 s each",
        "| relu | 1 | baseline | 10 | 1,280 | 10.0 % | 1.00 × | 1 MiB | 3.0 s |",
        "| relu | 2 | eager | 50 | 6,400 | 50.0 % | 1.25 × | 4 MiB | 2.0 s |",
        "| relu | 8 | eager | 25 | 3,200 | 25.0 % | – | 3 MiB | 2.0 s |",
        "- relu: 147 GFLOP (147 ms at the ceiling)",
        "| 200 | 2.00 |",
    ):
        assert text.count(line) == 1
    assert "queue" not in Page("a device", "a command", PLAN, 1e12, rows).markdown()
    assert page.profile() == "relu, 8 at once, eager: 4 iterations\na table\n"
    assert [row["iterations_per_second"] for row in json.loads(page.json())["rows"]] == [10.0, 40.0, 50.0, 25.0]
    assert "kernels" not in page.json()
