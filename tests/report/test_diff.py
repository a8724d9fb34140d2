"""Two output folders, cell by cell."""

import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_records import ROOT, make_result
from rich.console import Console
from workers import put

from replicate.errors import UsageError
from replicate.report.diff import compare, read_table
from replicate.report.document import Document
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder


def table(out: Path, results: Iterable[Result]) -> Document:
    for result in results:
        put(result, RunFolder.of(out, result.run).path)
    return read_table(out)


def seeds(accuracies: Iterable[float | None], init: str = "lsuv", activation: str = "relu", **settings: Any) -> Any:
    return [make_result(Run(init, activation, seed, **settings), one) for seed, one in enumerate(accuracies)]


def compared(a: Document, b: Document) -> str:
    text = io.StringIO()
    compare(a, b, Console(file=text, width=100))
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        # both SD are 1 and n = 3, so df = 4, t = 2.776, and the half-width is 2.776 · √(2/3) = 2.267
        ([90, 91, 92], [92, 93, 94], ["91.0 ± 1.0 (n=3)", "93.0 ± 1.0 (n=3)", "+2.00", "−0.27 to +4.27"]),
        ([90, 91, 10], [90], ["90.5 ± 0.7 (n=2, 1 n/c)", "90.0 (n=1)", "−0.50"]),
        ([90, 10, 10], [90], ["n/c (2/3)", "90.0 (n=1)", "n/c only in A"]),
        ([90], [None], ["90.0 (n=1)", "n/c (1/1)", "n/c only in B"]),
        ([10], [10, 10], ["n/c (1/1)", "n/c (2/2)"]),
    ],
)
def test_a_cell(tmp_path: Path, a: list[float | None], b: list[float | None], shown: list[str]) -> None:
    text = compared(table(tmp_path / "a", seeds(a)), table(tmp_path / "b", seeds(b)))
    (line,) = (line for line in text.splitlines() if line.startswith("LSUV × ReLU"))
    assert re.split("  +", line)[1:] == shown


def test_a_cell_with_errors_only_has_no_difference(tmp_path: Path) -> None:
    crash = make_result(Run("lsuv", "relu"), None, "error", error="x")
    a = table(tmp_path / "a", [crash, *seeds([80.0], activation="tanh")])
    b = table(tmp_path / "b", [*seeds([90.0]), *seeds([80.0], activation="tanh")])
    assert "… 0/1 (1 error)  90.0 (n=1)\n" in compared(a, b)


def test_what_is_printed_above_and_below(tmp_path: Path) -> None:
    ours = [*seeds([90.0]), *seeds([80.0], activation="tanh"), *seeds([70.0], "msra", lr=0.5)]
    theirs = [replace(one, commit="fedcba", fingerprint="4e" * 32) for one in seeds([92.0, 93.0], width=0.5)]
    theirs += [replace(one, fingerprint="4e" * 32) for one in seeds([60.0], "xavier", width=0.5)]
    a, b = table(tmp_path / "ours", ours), table(tmp_path / "theirs", theirs)
    lines = compared({**a, "out": "ours"}, {**b, "out": "theirs"}).splitlines()
    assert lines[:4] == [
        "A: ours: 3 finished runs, CIFAR-10, fitnet4 at width 1, 90,000 iterations, bf16-mixed",
        "B: theirs: 3 finished runs, CIFAR-10, fitnet4 at width 0.5, 90,000 iterations, bf16-mixed",
        "The settings differ in width (1 and 0.5). The images differ. The runs were made by 2 different",
        "versions of the code.",
    ]
    assert lines[-3:] == [
        "MSRA × ReLU in A: Trained with lr 0.5, unlike the other cells.",
        "Only in A: LSUV × tanh, MSRA × ReLU.",
        "Only in B: Xavier × ReLU.",
    ]
    assert "The settings are the same.\n" in compared(a, a)


def test_numbers_of_generated_images_mean_nothing(tmp_path: Path) -> None:
    real, generated = (table(tmp_path / name, seeds([90.0], dataset=name)) for name in ("cifar10", "synthetic"))
    assert "so these numbers mean nothing" in compared(real, generated)
    assert "mean nothing" not in compared(real, real)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    other = [replace(one, fingerprint="4e" * 32) for one in seeds([90.0], "msra")]
    with pytest.raises(UsageError, match="nothing holds no finished run to compare"):
        read_table(tmp_path / "nothing")
    with pytest.raises(UsageError, match="failed holds no finished run"):
        table(tmp_path / "failed", [make_result(Run("lsuv", "relu"), None, "error", error="x")])
    with pytest.raises(UsageError, match=r"mix: .*LSUV × ReLU differ in lr .* their seed; compare folders"):
        table(tmp_path / "mix", [*seeds([90.0]), *seeds([90.0], lr=0.5)])
    with pytest.raises(UsageError, match=r"data: a table holds one data set, .*; compare folders"):
        table(tmp_path / "data", [*seeds([90.0]), *other])
    with pytest.raises(UsageError, match=r"no cell is in both .*a and .*b"):
        compare(table(tmp_path / "a", seeds([90.0])), table(tmp_path / "b", other), Console(file=io.StringIO()))


def test_a_folder_may_hold_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    doc = table(tmp_path, seeds([90.0, 91.0]))
    RunFolder.of(tmp_path, Run("lsuv", "relu")).result.write_text("{")
    assert "1 record in A cannot be read." in compared(read_table(tmp_path), doc)


def test_the_published_results_compare() -> None:
    text = compared(*(read_table(ROOT / "results" / name) for name in ("pilot-scale-1-jpeg", "pilot-jpeg")))
    assert "The settings differ in input_scale (1 and 0.7)." in text
    activations = ["maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]
    cells = [line.split("  ")[0] for line in text.splitlines() if line.startswith(("LSUV ×", "MSRA ×"))]
    assert cells == [f"{init} × {one}" for init in ("LSUV", "MSRA") for one in activations]
