"""McNemar's test on pairs of cells."""

from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.report.mcnemar import compare, correct_answers, mcnemar
from replicate.run import Run
from replicate.store.predictions import Predictions, labels_sha256
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder

AXES = ("init", "activation")


def test_by_hand() -> None:
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 2**6)  # 0 or 1 of 6 heads, on either side
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0
    assert mcnemar(400, 300) == pytest.approx(1.8e-4, rel=0.05)


@given(st.integers(0, 60), st.integers(0, 60))
def test_it_is_the_sum_of_both_tails(first: int, second: int) -> None:
    n = first + second
    p = sum(comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(first - second)) / 2**n
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(p)


def answers(text: str) -> np.ndarray:
    return np.array([letter == "r" for letter in text])


def test_pairs_of_a_column_share_seeds() -> None:
    runs = [Run(init, activation, seed) for activation in ("relu", "tanh") for init in ("lsuv", "xavier", "msra")
            for seed in (0, 1)]  # fmt: skip
    texts = {
        ("lsuv", "relu", 0): "rrrw", ("lsuv", "relu", 1): "rwww", ("xavier", "relu", 0): "wwrr",
        ("xavier", "relu", 1): "wrww", ("msra", "relu", 1): "rwww", ("lsuv", "tanh", 0): "rrrr",
        ("xavier", "tanh", 1): "rrrr",
    }  # fmt: skip
    correct = {
        run.run_id: answers(texts[run.init, run.activation, run.seed])
        for run in runs
        if (run.init, run.activation, run.seed) in texts
    }
    compared = compare(runs, AXES, correct)
    keys = ("column", "first", "second", "seeds", "only_first", "only_second")
    assert [tuple(pair[key] for key in keys) for pair in compared] == [
        ("relu", "lsuv", "xavier", [0, 1], [2, 1], [1, 1]),
        ("relu", "lsuv", "msra", [1], [0], [0]),
        ("relu", "xavier", "msra", [1], [1], [1]),
    ]
    assert compared[0]["p"] == [mcnemar(2, 1), 1.0]


def test_seeds_below_five_percent_are_counted() -> None:
    runs = [Run(init, "relu", seed) for init in ("lsuv", "msra") for seed in (0, 1)]
    texts = ("r" * 20 + "w" * 3, "r" * 5 + "w" * 5, "w" * 20 + "r" * 3, "w" * 5 + "r" * 5)
    (pair,) = compare(runs, AXES, {run.run_id: answers(text) for run, text in zip(runs, texts, strict=True)})
    assert (pair["only_first"], pair["only_second"], pair["significant"]) == ([20, 5], [3, 5], 1)


def test_answers_of_converged_runs_with_predictions(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    labels = np.array([0, 1, 2, 3])
    runs = [Run("lsuv", "relu", seed) for seed in range(5)]
    results = [make_result(run, 75.0) for run in runs]
    results[1] = replace(results[1], status="not_converged")
    for run in (runs[0], runs[1], runs[2]):  # the fourth has none, the fifth others' labels
        folder = RunFolder.of(tmp_path, run).path
        folder.mkdir(parents=True)
        (folder / "predictions.npz").write_bytes(Predictions(np.array([0, 1, 2, 0]), labels_sha256(labels)).to_npz())
    (RunFolder.of(tmp_path, runs[2]).path / "predictions.npz").write_bytes(b"torn")
    other = RunFolder.of(tmp_path, runs[4]).path
    other.mkdir()
    (other / "predictions.npz").write_bytes(Predictions(np.array([0, 1]), labels_sha256(labels[:2])).to_npz())
    found, bad = correct_answers(results, tmp_path, lambda dataset: labels)
    assert {name: one.tolist() for name, one in found.items()} == {runs[0].run_id: [True, True, True, False]}
    assert {path.parent.name for path in bad} == {runs[2].run_id, runs[4].run_id}
    assert correct_answers(results, tmp_path, lambda dataset: None) == ({}, {})
