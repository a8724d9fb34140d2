"""The storm, in short: ten faults over two small runs, with real processes and real trainings."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ten_faults_lose_double_and_change_nothing(tmp_path: Path) -> None:
    words = ["--faults", "10", "--interval", "0.4", "--page", str(tmp_path / "chaos.md")]
    # Of the kinds that cost a new scheduler, and seconds for its start, only one.
    words += ["--kinds", "kill_worker", "kill_scheduler", "stop_worker", "full_disk"]
    words += ["damage_result", "damage_checkpoint", "damage_claim", "damage_curve"]
    words += ["--only", "init=msra", "activation=relu,tanh", "--set", "iterations=80", "milestones=[]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "experiments/chaos.py", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    page = (tmp_path / "chaos.md").read_text()
    assert "**0 lost, 0 doubled, 0 with differing bits**" in page
    assert "| **all** | **10** |" in page
    assert sum(map(int, re.findall(r"^\| [a-z ]+ \| (\d+) \|$", page, flags=re.MULTILINE))) == 10
    assert not list(tmp_path.glob("chaos-*"))  # it tidies up
