"""The same seed gives the same bits: in any order, next to other runs, with any number of workers."""

import json
from pathlib import Path
from typing import Any

import pytest

from replicate.cli import main

MAY_DIFFER = ("seconds", "images_per_second", "finished", "checksum")
GRID = """
name: bits
grid: {init: [lsuv, msra], activation: [relu]}
run: {dataset: synthetic, width: 0.125, batch_size: 16, lsuv_batch_size: 16, lsuv_max_iter: 1, iterations: 3,
      milestones: [2], precision: 32-true}
"""


def records(out: Path, at_once: int) -> dict[str, tuple[dict[str, Any], bytes]]:
    found = {}
    for path in out.glob("runs/*/result.json"):
        record = json.loads(path.read_text())
        assert record["error"] is None
        assert record["options"].pop("runs_per_device") == at_once
        kept = {key: value for key, value in record.items() if key not in MAY_DIFFER}
        found[path.parent.name] = kept, (path.parent / "curve.csv").read_bytes()
    return found


def test_in_any_order_with_any_number_of_workers_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As if from a clean checkout: with changed code `verify` would allow the bits to differ.
    monkeypatch.setattr("replicate.verify.rerun.reasons", lambda *_: iter(()))
    file = tmp_path / "bits.yaml"
    file.write_text(GRID)
    command = ["matrix", str(file), "--wandb", "off", "--devices", "cpu"]
    assert main([*command, "--out", str(tmp_path / "one"), "--per-device", "1"]) == 0
    assert main([*command, "--set", "init=msra,lsuv", "--out", str(tmp_path / "two"), "--per-device", "2"]) == 0
    one, two = records(tmp_path / "one", at_once=1), records(tmp_path / "two", at_once=2)
    assert len(one) == 2
    assert one == two
    for record, _ in one.values():
        assert len(record["weights_sha256"]) == 64
        assert record["environment"]["deterministic"]
        assert record["parts"] is None

    # `verify` finds a record that differs from its run, and confirms the other one.
    run_id = next(name for name in one if name.startswith("lsuv-relu"))
    path = tmp_path / "one" / "runs" / run_id / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": "0" * 64, "checksum": None}))
    capsys.readouterr()
    assert main(["verify", str(file), "--out", str(tmp_path / "one"), "--sample", "all", "--devices", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "2 runs verified: 1 identical, 1 different" in shown
    assert f"{run_id}:\n  differs in: weights" in shown
