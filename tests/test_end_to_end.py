"""From an experiment file to the table, through real processes, with an interruption."""

import csv
import json
import signal
import time
from pathlib import Path
from threading import Thread, main_thread

import pytest

from replicate.cli import main

EXPERIMENT = """
name: tiny
grid: {init: [lsuv, msra], activation: [relu, maxout], seed: [0]}
exclude: [{init: lsuv, activation: maxout}]
run: {dataset: synthetic, width: 0.125, batch_size: 16, lsuv_batch_size: 16, lsuv_max_iter: 1, iterations: 24,
      milestones: [16], precision: 32-true}
"""


def test_interrupted_and_started_again_the_matrix_ends_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT)
    out = Path("results/local/tiny")
    command = ["matrix", "tiny.yaml", "--devices", "cpu", "--per-device", "2", "--wandb", "off"]

    def interrupt() -> None:
        while not list(out.glob("runs/*/result.json")):
            time.sleep(0.02)
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)

    # Ctrl-C as soon as one run is done: exit code 3, and no run is left incomplete
    Thread(target=interrupt, daemon=True).start()
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert main(command) == 3
    stopped = capsys.readouterr().out
    assert "the same command resumes them" in stopped
    assert stopped.endswith("next: the same command, which resumes the runs\n")
    done = {path: path.read_bytes() for path in out.glob("runs/*/result.json")}
    assert 1 <= len(done) < 3

    # finished runs are kept, the others are carried out now
    assert main(command) == 0
    assert "3 of 3 runs are done, 0 with an error" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in done} == done

    # the number of simultaneous runs changes nothing
    fixed = ["--set", "init=lsuv", "activation=relu", "seed=0"]
    assert main(["run", "tiny.yaml", *fixed, "--out", "single", "--devices", "cpu", "--wandb", "off"]) == 0
    (record,) = Path("single").glob("runs/*/result.json")
    assert json.loads(record.read_text())["options"]["runs_per_device"] == 1
    (curve,) = Path("single").glob("runs/*/curve.csv")
    assert curve.read_bytes() == (out / "runs" / curve.parent.name / "curve.csv").read_bytes()

    assert main(["table", "tiny.yaml"]) == 0
    assert "synthetic shapes" in capsys.readouterr().out
    with (out / "table.csv").open() as file:
        cells = {(row["init"], row["activation"]) for row in csv.DictReader(file) if row["finished"] == "1"}
    assert cells == {("lsuv", "relu"), ("msra", "relu"), ("msra", "maxout")}
    assert main(["score", "tiny.yaml"]) == 0
    assert "records; the table from them is the same, byte for byte" in capsys.readouterr().out
