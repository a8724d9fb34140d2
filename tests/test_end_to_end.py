"""From an experiment file to the table, through real processes, with an interruption on the way."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replicate.cli import main

EXPERIMENT = """
name: tiny
grid: {init: [lsuv, msra], activation: [tanh, maxout], seed: [0, 1]}
exclude: [{init: lsuv, activation: maxout, seed: 1}]
run: {dataset: synthetic, width: 0.125, batch_size: 16, iterations: 40, milestones: [20], precision: 32-true}
"""


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two classes with a few random images, and a cache of its own."""
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "data" / "shapes" / ("test" if number % 3 == 0 else "train") / "ab"[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path / f"{number}.png")
    return tmp_path / "data"


def test_interrupted_and_started_again_the_matrix_ends_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT)
    out = Path("results/local/tiny")
    command = ["matrix", "tiny.yaml", "--devices", "cpu", "--per-device", "2", "--wandb", "off"]

    # Ctrl-C as soon as one run is done: exit code 3, and no run is half there
    first = subprocess.Popen([sys.executable, "-m", "replicate", *command], stdout=subprocess.PIPE, text=True)
    while not list(out.glob("runs/*/result.json")):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    text, _ = first.communicate(timeout=300)
    assert first.returncode == 3, text
    assert "the same command resumes them" in text
    done = {path: path.read_bytes() for path in out.glob("runs/*/result.json")}
    assert 1 <= len(done) < 7

    # what was done is left as it is, what was not is done now
    assert main(command) == 0
    assert "7 of 7 runs are done, 0 with an error" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in done} == done
    records = [json.loads(path.read_text()) for path in out.glob("runs/*/result.json")]
    assert len(records) == 7
    assert {record["options"]["threads"] for record in records} == {1}

    # alone or beside other runs: the number of workers changes nothing
    fixed = ["--set", "init=lsuv", "activation=tanh", "seed=0"]
    assert main(["run", "tiny.yaml", *fixed, "--out", "alone", "--devices", "cpu", "--wandb", "off"]) == 0
    (curve,) = Path("alone").glob("runs/*/curve.csv")
    assert curve.read_bytes() == (out / "runs" / curve.parent.name / "curve.csv").read_bytes()

    assert main(["table", "tiny.yaml"]) == 0
    assert "synthetic shapes" in capsys.readouterr().out
    with (out / "table.csv").open() as file:
        cells = {(row["init"], row["activation"]): int(row["finished"]) for row in csv.DictReader(file)}
    assert cells == {("lsuv", "tanh"): 2, ("lsuv", "maxout"): 1, ("msra", "tanh"): 2, ("msra", "maxout"): 2}
    capsys.readouterr()
    assert main(["score", "tiny.yaml"]) == 0
    assert "records; the table from them is the same, byte for byte" in capsys.readouterr().out
    assert main(["figures", "tiny.yaml"]) == 0
    assert {path.stem for path in (out / "figures").glob("*.png")} >= {
        *("accuracy", "accuracy_by_init", "curves", "init_variance"),
    }


def test_data_that_changed_under_finished_runs_stops_the_matrix(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text(
        "grid: {seed: [0]}\n"
        "run: {init: xavier, activation: relu, dataset: folder:shapes, width: 0.125, batch_size: 4, iterations: 2,\n"
        "      milestones: [], precision: 32-true, lsuv_batch_size: 4}\n"
    )
    command = ["matrix", str(tmp_path / "one.yaml"), "--data-dir", str(images), "--out", str(tmp_path / "out")]
    command += ["--devices", "cpu", "--wandb", "off"]
    assert main(command) == 0
    (record,) = (tmp_path / "out" / "runs").glob("*/result.json")
    before = record.read_bytes()
    image = next((images / "shapes" / "train").rglob("*.png"))
    other = image.rename(image.with_name("renamed.png"))
    capsys.readouterr()
    assert main(command) == 2
    assert json.loads(before)["fingerprint"] in capsys.readouterr().err
    assert record.read_bytes() == before

    other.write_bytes(b"no image")
    assert main(command) == 2
    assert "renamed.png" in capsys.readouterr().err
    assert list((tmp_path / "out" / "runs").iterdir()) == [record.parent]
