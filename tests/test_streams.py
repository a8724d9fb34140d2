"""Output that is closed, or that cannot be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPLICATE = str(Path(sys.executable).with_name("replicate"))
SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")
ONE = ["--only", "init=lsuv", "activation=tanh", "--set", "iterations=2", "milestones=[]", "lsuv_max_iter=1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("output", "code"), [("> /dev/full", 1), ("| true", 141), (">&- 2>&- <&-", 0)])
def test_output_that_cannot_be_written_stops_no_training(tmp_path: Path, output: str, code: int) -> None:
    words = [REPLICATE, "matrix", SMOKE, *ONE, "--out", str(tmp_path), "--devices", "cpu", "--wandb", "off"]
    script = f'"$@" {output}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, check=False)
    assert list(tmp_path.glob("runs/*/result.json")), done
    assert done.returncode == code, done
    assert ("cannot write the output: No space left on device" in done.stderr) == (code == 1)


def test_commands_that_only_print() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([REPLICATE, "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "replicate: cannot write the output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([REPLICATE, "list"], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
