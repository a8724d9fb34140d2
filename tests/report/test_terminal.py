import re
from pathlib import Path

import pytest
from made_up_records import make_records, make_result
from rich.console import Console

from replicate.experiment import Experiment
from replicate.report.document import Document, document
from replicate.report.terminal import print_table, shared_count

ROOT = Path(__file__).parents[2]


def printed(doc: Document, width: int = 80) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        print_table(doc, console)
    return [line.rstrip() for line in capture.get().splitlines()]


def cells(line: str) -> list[str]:
    return re.split(r"  +", line.strip())


def test_our_numbers_are_above_the_published_ones(everything: Document) -> None:
    lines = printed(everything, 120)
    (at,) = (index for index, line in enumerate(lines) if line.startswith("LSUV"))
    assert cells(lines[at]) == ["LSUV", "94.0 ± 0.2 (n=3)", "92.2 ± 0.1 (n=2, 1 n/c)"]
    assert cells(lines[at + 1]) == ["paper", "93.94 ✓", "92.11"]
    assert cells(lines[at + 2])[:2] == ["Xavier", "91.8 ± 0.3 (n=3)"]
    assert "✓ consistent" in lines[at + 6]
    assert not any("<whole>" in line for line in lines)


@pytest.mark.parametrize(
    ("accuracies", "number", "text"),
    [((90.0,), 1, "one run per cell"), ((90.0, 91.0, 92.0), 3, "3 runs per cell"), ((90.0, 10.0), None, None)],
)
def test_the_number_of_runs_is_named_once(
    small: Experiment, accuracies: tuple[float, ...], number: int | None, text: str | None
) -> None:
    asked = small.with_settings({"seed": list(range(len(accuracies)))})
    results = [make_result(run, accuracies[run.seed]) for run in asked.runs()]
    doc = document(asked, asked.runs(), make_records(results))
    assert shared_count(doc) == number
    head, *rest = printed(doc)
    assert head.endswith(text) if text else "per cell" not in head
    assert any("n=" in line for line in rest) == (number is None)


def test_unfinished_cells_show_how_far_they_are(small: Experiment) -> None:
    first, *_ = small.runs({"init": "lsuv", "activation": "relu"})
    lines = printed(document(small, small.runs(), make_records([make_result(first, 92.0)])))
    assert any("92.0 … 1/3" in line and "… 0/3" in line for line in lines)
    assert any(line.endswith("; … 2/5: 2 of 5 runs have finished") for line in lines)


def test_errors_and_records_that_cannot_be_read_are_counted(small: Experiment) -> None:
    first, second, third, *_ = runs = small.runs()
    results = [make_result(first, 92.0), make_result(second, None, status="error", error="boom")]
    records = make_records(results, bad={Path("runs", third.run_id, "result.json"): "not a whole result"})
    text = "\n".join(printed(document(small, runs, records)))
    assert "1 run ended in an error. 1 record cannot be read." in text
    assert "cannot be read" not in "\n".join(printed(document(small, runs, make_records(results))))


def test_generated_images_are_named_and_nothing_is_concluded_from_them() -> None:
    smoke = Experiment.load(ROOT / "experiments" / "smoke.yaml")
    results = [make_result(run, 20.0, data_label="synthetic shapes") for run in smoke.runs()]
    doc = document(smoke, smoke.runs(), make_records(results))
    text = "\n".join(printed(doc, 200))
    assert "these numbers mean nothing" in text
    assert "claims" not in text
    assert "agree with the paper" not in text


@pytest.mark.parametrize("name", ["smoke", "pilot", "table3", "table3-short", "table3-as-released"])
def test_a_table_leaves_room_for_the_command_and_fits_80_columns(name: str) -> None:
    experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
    results = [make_result(run, 50.25 + run.seed) for run in experiment.runs()]
    lines = printed(document(experiment, experiment.runs(), make_records(results)))
    assert len(lines) <= 20  # with how many runs are done, three lines of files and the next command: 25
    assert max(map(len, lines)) <= 80


def test_the_reason_why_numbers_do_not_compare_is_not_cut() -> None:
    experiment = Experiment.load(ROOT / "experiments" / "pilot.yaml")
    failed = {("xavier", "maxout"), ("msra", "relu"), ("msra", "vlrelu"), ("msra", "maxout")}
    results = [
        make_result(run, 10.0 if (run.init, run.activation) in failed or run.activation == "sigmoid" else 50.0)
        for run in experiment.runs()
    ]
    text = " ".join(printed(document(experiment, experiment.runs(), make_records(results))))
    assert "(n/c only here: Xavier × maxout, MSRA × ReLU, MSRA × VLReLU); the accuracies do not compare" in text
    assert "…" not in text


def test_markup_in_text_from_files_is_not_interpreted(small: Experiment) -> None:
    results = [make_result(run, 90.0, data_label="[bold]b") for run in small.runs()]
    assert printed(document(small, small.runs(), make_records(results)))[1].startswith("[bold]b, fitnet4")
