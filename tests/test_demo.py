"""experiments/demo.py: what it measures, its sentence, and a short run."""

from pathlib import Path

import demo
import demo_nets
import pandas as pd
import pytest
from script import run_app


def test_lsuv_starts_at_unit_variance_and_training_lowers_the_loss() -> None:
    one = demo_nets.train("VLReLU", "lsuv", seed=0, depth=6, iterations=60)
    assert one.variances == pytest.approx([1.0] * 6, abs=0.02)
    assert one.losses[-1] < one.losses[0] - 0.3
    assert one.outcome == "converged"


def test_the_finding_names_the_formulas_that_do_as_well() -> None:
    accuracies = {  # seeds 0 and 1; None: diverged
        "ReLU": {"torch": (10, 10), "xavier": (10, 30), "msra": (25, 31), "orthonormal": (10, 10), "lsuv": (30, 35)},
        "tanh": {"torch": (10, 10), "xavier": (20, 22), "msra": (40, 41), "orthonormal": (None, 12), "lsuv": (42, 50)},
    }
    columns = ["activation", "init", "accuracy", "outcome"]
    found = pd.DataFrame(
        [
            (activation, init, accuracy, "diverged" if accuracy is None else demo_nets.status_of(accuracy, 10))
            for activation, inits in accuracies.items() for init, both in inits.items() for accuracy in both
        ], columns=columns,
    )  # fmt: skip
    assert demo.finding(found) == (
        "LSUV trains 2 of 2 activations, no formula more than 2 (MSRA). "
        "A formula does as well or better with ReLU (MSRA)."
    )
    cells = found.groupby(["activation", "init"])[["accuracy", "outcome"]].apply(demo.cell)
    assert list(cells["ReLU"][["torch", "xavier", "msra"]]) == ["chance", "some fail", "28"]
    assert cells["tanh"]["orthonormal"] == "diverged"


def test_it_writes_the_picture_and_the_accuracies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--depth", "2", "--iterations", "2", "--seeds", "1", "--processes", "1", "--out", str(tmp_path)]
    assert run_app(demo.app, words) == 0
    assert len(pd.read_csv(tmp_path / "demo.csv")) == len(demo_nets.ACTIVATIONS) * len(demo_nets.INITS)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert "LSUV trains" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--activation", "step"], ["--depth", "0"], ["--out", "/dev/null/demo"]])
def test_wrong_usage_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(demo.app, words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
