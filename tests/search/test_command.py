"""`replicate search` on the command line, once for real on a few images."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from workers import SYNTHETIC, ended, put

from replicate.cli import main
from replicate.errors import CUDA
from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.run import Run

TEXT = """
run: {init: lsuv, dataset: synthetic, validation: 40, iterations: 3, milestones: [], batch_size: 8,
  width: 0.0625, lsuv_batch_size: 2, lsuv_max_iter: 1, precision: 32-true}
space: {lr: {low: 0.001, high: 0.1, log: true}, activation: [relu, tanh]}
stages: [{trials: 2}]
"""
Output = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return path


def test_a_search(file: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "out"
    words = ["search", str(file), "--out", str(out), "--wandb", "off"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for text in ("next: random 2 trials; 2 runs to carry out", "2 of 2 runs are done", "trials.csv and search.db"):
        assert text in printed
    assert printed.splitlines()[-1] == "no trial has learned anything, so there are no best settings"  # in 3 iterations
    rows = (out / "trials.csv").read_text().splitlines()
    assert len(rows) == 3
    assert {row.split(",")[-1] for row in rows[1:]} == {path.name for path in (out / "runs").iterdir()}
    (out / "search.db").unlink()
    assert main(words) == 0  # nothing is left to do but the files
    assert "to carry out" not in capsys.readouterr().out
    assert (out / "search.db").exists()


def carry_out(statuses: dict[int, str], fingerprint: str = SYNTHETIC) -> Any:
    """In place of a matrix: check the data and write records; those of some numbers have another status."""

    def carry(selected: Selected, data_dir: Path, resources: object, logging: object, check: Any) -> int:
        check({"synthetic": fingerprint})
        for number, run in enumerate(selected.runs):
            status = statuses.get(number, "converged")
            result = ended(run, status, 20.0 + number if status == "converged" else None)
            result = replace(result, fingerprint=fingerprint, passing=CUDA if status == "error" else None)
            put(result, selected.out / "runs" / run.run_id)
        return 1 if statuses else 0

    return carry


def test_the_best_settings_are_an_experiment(
    file: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAKELEVEL", raising=False)  # make says what comes next itself
    out = tmp_path / "out"
    words = ["search", str(file), "--out", str(out)]
    monkeypatch.setattr("replicate.carry_out.carry_out", carry_out({1: "error"}))
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert printed.endswith("next: the same command, which resumes the search\n")
    assert [path.name for path in out.iterdir()] == ["runs"]  # nothing is written of half a search
    monkeypatch.setattr("replicate.carry_out.carry_out", carry_out({}))
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"matrix {out}/best.yaml")
    best = Experiment.load(out / "best.yaml")
    assert {(run.validation, run.iterations) for run in best.runs()} == {(0, 3)}
    assert (out / "figures" / "progress.png").exists()


def test_records_of_other_data_are_refused(
    file: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["search", str(file), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("replicate.carry_out.carry_out", carry_out({}))
    assert main(words) == 0
    runs = sorted((tmp_path / "out" / "runs").iterdir())
    shutil.rmtree(runs[0])
    monkeypatch.setattr("replicate.carry_out.carry_out", carry_out({}, "ab" * 32))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert f"{runs[1].name} was run on data with fingerprint {SYNTHETIC}, but synthetic here has {'ab' * 32}" in error
    assert not runs[0].exists()


def test_what_is_refused(file: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["search", str(file), "--only", "lr=0.1"]) == 2
    assert "--only is for experiments; a search takes --set" in capsys.readouterr().err
    assert main(["search", str(file), "--step", "graph", "--set", "optimizer=sgd,adam"]) == 2
    assert "--step graph is for the optimiser sgd, and" in capsys.readouterr().err
    out = file.parent / "out"
    assert not out.exists()
    assert main(["search", str(file), "--out", str(out), "--wandb", "off", "--set", "validation=9000"]) == 2
    assert "validation = 9000 is more than half of the" in capsys.readouterr().err
    assert not [*(out / "runs").iterdir()]
    (out / "trials.csv").mkdir()
    monkeypatch.setattr("replicate.carry_out.carry_out", carry_out({}))
    assert main(["search", str(file), "--out", str(out)]) == 2
    assert f"cannot write to {out}: Is a directory; give another folder with --out" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("replicate.search.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["search", str(file)]) == 2
    assert "replicate search needs optuna; install it: pip install '.[search]'" in capsys.readouterr().err


def test_a_run_of_a_trial_is_no_run_of_the_best_experiment(file: Path) -> None:
    """It has validation images, so its record is never taken for a test result."""
    run = Run("lsuv", "relu", dataset="synthetic", validation=40)
    assert replace(run, validation=0).run_id != run.run_id
