"""`replicate search`, for real, on a few images."""

import shutil
import sys
from pathlib import Path

import pytest

from replicate.cli import main
from replicate.experiment import Experiment

TEXT = """
run: {init: lsuv, dataset: synthetic, validation: 40, iterations: 3, milestones: [], batch_size: 8,
  width: 0.0625, lsuv_batch_size: 2, lsuv_max_iter: 1, precision: 32-true}
space: {lr: {low: 0.001, high: 0.1, log: true}, activation: [relu, tanh]}
stages: [{trials: 2}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


def test_a_search(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["search", str(file), "--out", str(out), "--wandb", "off"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for text in (
        "next: random 2 trials; 2 runs to carry out",
        "2 of 2 runs are done",
        "trials.csv, search.db and best.yaml",
    ):
        assert text in printed
    assert printed.splitlines()[-1].endswith(f"matrix {out}/best.yaml")
    best = Experiment.load(out / "best.yaml")
    assert {(run.validation, run.iterations) for run in best.runs()} == {(0, 3)}
    rows = (out / "trials.csv").read_text().splitlines()
    assert len(rows) == 3
    names = {row.split(",")[-1] for row in rows[1:]}
    assert names == {path.name for path in (out / "runs").iterdir()}
    assert (out / "figures" / "progress.png").exists()
    shutil.rmtree(out / "figures")
    (out / "search.db").unlink()
    assert main(words) == 0  # nothing is left to do but these files
    assert (out / "search.db").exists()
    assert "to carry out" not in capsys.readouterr().out


def test_what_is_refused(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["search", str(file), "--only", "lr=0.1"]) == 2
    assert "--only is for experiments; a search takes --set" in capsys.readouterr().err
    out = file.parent / "out"
    assert main(["search", str(file), "--out", str(out), "--wandb", "off", "--set", "validation=9000"]) == 2
    assert "validation = 9000 is more than half of the" in capsys.readouterr().err
    assert not [*(out / "runs").iterdir()]
    for name in [name for name in sys.modules if name.startswith("replicate.search.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", str(file)]) == 2
    assert "replicate search needs optuna; install it: pip install '.[search]'" in capsys.readouterr().err
