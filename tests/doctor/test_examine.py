"""The command, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path


def test_the_doctor_finds_that_the_cpu_trains_and_loads_no_torch_itself(tmp_path: Path) -> None:
    code = (
        "import sys; from replicate.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "print({'torch', 'pandas'} & set(sys.modules), code)"
    )
    words = ["doctor", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path / "data")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[-2:] == ["ready to train on cpu", "set() 0"], done.stderr
    assert [line for line in lines if line[0] != " "][:-2] == ["versions", "disk", "data", "W&B", "devices", "training"]
    assert not list(tmp_path.iterdir())  # it only looks
