"""The state of a matrix as text."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from workers import ended

from replicate.experiment import Experiment
from replicate.live.format import cell_text, draw, duration
from replicate.live.state import CellProgress, MatrixState, Observation, Progress

NOTHING = CellProgress(5, (), (), 0, 0, 0)
ONE = replace(NOTHING, expected=1)


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        (NOTHING, ["0/5"]),
        (replace(NOTHING, accuracies=(92.0,), here=(0.2, 0.8), elsewhere=(0.1,)), ["1/5 92.0 %", "▸×2 50 %", "▹ 10 %"]),
        (replace(NOTHING, here=(0.0,), errors=1), ["0/5 ▸ 0 %", "1 error"]),
        (replace(NOTHING, accuracies=(90.0, 91.0), not_converged=1, diverged=1), ["4/5 90.5 %", "1 n/c", "1 diverged"]),
        (replace(NOTHING, accuracies=(90.0,), not_converged=1, diverged=1), ["3/5 n/c"]),
        (replace(NOTHING, diverged=2), ["2/5 diverged"]),
        (ONE, ["waiting"]),
        (replace(ONE, accuracies=(92.34,)), ["92.3 %"]),
        (replace(ONE, errors=1), ["error"]),
    ],
)
def test_a_cell(cell: CellProgress, lines: list[str]) -> None:
    assert cell_text(cell).plain.splitlines() == lines


def test_a_duration() -> None:
    seconds = (99.4, 99.5, 5_910, 6_000, 35.9 * 3600, 36 * 3600)
    assert [*map(duration, seconds)] == ["99 s", "2 min", "98 min", "1 h 40 min", "35 h 54 min", "1 d 12 h"]


def drawn(state: MatrixState, width: int, title: str = "title", notes: tuple[str, ...] = ()) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(draw(state, title, notes))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_of_five_by_five_with_five_seeds_fits_80_columns() -> None:
    experiment = Experiment.load(Path(__file__).parents[2] / "experiments" / "table3.yaml")
    runs = {run.run_id: run for run in experiment.runs()}
    results = {name: ended(run, accuracy=92.3) for name, run in runs.items() if run.seed < 3}
    one = Progress(90_000, 45_000, 81.25, "gpu 7", "process 123456 on a-long-host-name", elsewhere=True)
    progress = {name: one for name, run in runs.items() if run.seed == 4}
    state = MatrixState(experiment, runs, Observation(results, progress), dict.fromkeys(progress, 10.0))
    lines = drawn(state, 80)
    assert lines[1] == "115 runs: 69 done, 23 running, 23 waiting; 29,440 images/s; 3 h 45 min left"
    assert lines[2].split() == ["init", "maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]
    assert lines[4].split() == ["LSUV", *["3/5", "92.3", "%"] * 5]
    grid = lines[4 : next(number for number, line in enumerate(lines) if line.startswith("▸ running"))]
    labels = [line.split()[0] for line in grid if line[:1].isalpha()]
    assert labels == ["LSUV", "OrthoNorm", "OrthoNorm-MSRA", "scaled", "Xavier", "MSRA"]
    assert "…" not in "".join(grid)  # nothing is cut off
    (row,) = (line for line in lines if "orthonormal_msra-sigmoid-s4" in line)
    assert row.split()[2:9] == ["45,000", "of", "90,000", "81.2", "%", "75", "min"]  # the place is cut, not the name
    assert all(max(map(len, drawn(state, width))) <= width for width in (200, 80, 50, 12, 1))


def test_with_one_run_per_cell_the_names_fit_60_columns() -> None:
    experiment = Experiment.load(Path(__file__).parents[2] / "experiments" / "smoke.yaml")
    runs = {run.run_id: run for run in experiment.runs()}
    results = {name: ended(run, "diverged") for name, run in runs.items()}
    lines = drawn(MatrixState(experiment, runs, Observation(results, {}), {}), 60)
    labels = [line.split()[0] for line in lines[4:11]]
    assert labels == ["LSUV", "OrthoNorm", "OrthoNorm-", "MSRA", "scaled", "Xavier", "MSRA"]


def test_a_part_keeps_the_order_of_the_file_and_marks_what_is_outside(experiment: Experiment) -> None:
    first, *_, last = experiment.with_settings({"seed": 0}).runs()
    assert [(run.init, run.activation) for run in (first, last)] == [("lsuv", "tanh"), ("msra", "tanh")]
    maxout = experiment.runs({"activation": "maxout"})[0]
    state = MatrixState(experiment, {run.run_id: run for run in (last, maxout)}, Observation({}, {}), {})
    lines = [line.split() for line in drawn(state, 200)]
    assert lines[2] == ["init", "tanh", "maxout"]
    assert lines[4:6] == [["LSUV", "·", "waiting"], ["MSRA", "waiting", "–"]]
    assert " ".join(lines[6]).endswith("not finite; ·: not among the chosen runs; –: not in the experiment")


def test_until_its_first_iteration_a_run_says_what_it_does(experiment: Experiment) -> None:
    run = experiment.runs()[0]
    seen = Observation({}, {run.run_id: Progress(100, 0, None, "cpu", stage="initialising layer 7 of 19")})
    *_, line = drawn(MatrixState(experiment, {run.run_id: run}, seen, {}), 80)
    assert line.split() == ["▸", run.run_id, "initialising", "layer", "7", "of", "19", "cpu"]


def test_names_are_not_markup_and_control_characters_are_escaped(experiment: Experiment) -> None:
    runs = {run.run_id: run for run in experiment.runs()}
    progress = {next(iter(runs)): Progress(100, 1, None, "[red]gpu[/red]", "process 1 on \x1b[2J")}
    state = MatrixState(experiment, runs, Observation({}, progress), {})
    text = "\n".join(drawn(state, 200, "[bold]x[/bold]\x1b[2J", ("[/red]",)))
    for shown in ("[bold]x[/bold]\\x1b[2J", "[red]gpu[/red], process 1 on \\x1b[2J", "\n[/red]\n"):
        assert shown in text
    assert "\x1b" not in text
