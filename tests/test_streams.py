"""Output that is closed, or that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_records import fill

from replicate.experiment import Experiment

REPLICATE = str(Path(sys.executable).with_name("replicate"))
SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")
ONE = ["--only", "init=xavier", "activation=tanh", "--set", "iterations=2", "milestones=[]"]


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@FULL
def test_a_full_disk_stops_no_training(tmp_path: Path) -> None:
    words = [REPLICATE, "matrix", SMOKE, *ONE, "--out", str(tmp_path), "--devices", "cpu", "--wandb", "off"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert list(tmp_path.glob("runs/*/result.json"))
    assert (done.returncode, done.stderr) == (1, "replicate: cannot write the output: No space left on device\n")


def test_closed_streams_are_replaced(tmp_path: Path) -> None:
    fill(tmp_path, Experiment.load(SMOKE).runs()[:4], points=2)
    script = f"{REPLICATE} table {SMOKE} --out {tmp_path} >&- 2>&- <&-"
    assert subprocess.run(["bash", "-c", script], check=False).returncode == 0
    assert (tmp_path / "table.md").read_text().startswith("# smoke")  # and nothing that was printed


@FULL
def test_commands_that_only_print() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([REPLICATE, "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "replicate: cannot write the output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([REPLICATE, "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
