"""experiments/chaos.py, in short: a few faults in two small runs, with real processes and real trainings."""

import random
import re
import tempfile
from pathlib import Path

import chaos
import pytest
from chaos_round import Round
from script import run_app

from replicate.run import Run


def test_faults_lose_double_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = ["--faults", "4", "--interval", "0.2", "--page", str(tmp_path / "chaos.md")]
    # only one of the kinds that cost the seconds of a new scheduler
    words += ["--kinds", "kill_worker", "kill_scheduler", "stop_worker", "full_disk"]
    words += ["damage_checkpoint", "damage_claim", "damage_curve", "flip_checkpoint", "flip_layers", "pipe_claim"]
    words += ["pipe_log", "foreign_lease", "edited_code", "--only", "init=msra", "activation=relu,vlrelu"]
    words += ["--set", "iterations=60", "batch_size=16", "milestones=[]"]
    assert run_app(chaos.app, words) == 0
    page = (tmp_path / "chaos.md").read_text()
    assert "**0 lost, 0 doubled, 0 with differing bits, 0 mislabelled**" in page
    assert "| **all** | **4** |" in page
    assert sum(map(int, re.findall(r"^\| [a-z ]+ \| (\d+) \|$", page, flags=re.MULTILINE))) == 4
    assert not list(tmp_path.glob("chaos-*"))  # it removes its folders


def test_a_complete_curve_is_not_damaged(tmp_path: Path) -> None:
    # Between its last row and its record, nothing would write the curve again, so the run would differ.
    run = Run("msra", "relu")
    one = Round(tmp_path, [], {run: [b"first,last", b"{}"]}, random.Random(0))
    curve = one.out / "runs" / run.run_id / "curve.csv"
    curve.parent.mkdir(parents=True)
    curve.write_bytes(b"first,last")
    assert not one.strike("damage_curve")
    assert curve.read_bytes() == b"first,last"
    curve.write_bytes(b"first")
    assert one.strike("damage_curve")
    assert curve.read_bytes() != b"first"
