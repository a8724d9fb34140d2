"""The drawing, on terminals of several sizes."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from live_records import ended
from rich.console import Console

from replicate.experiment import Experiment
from replicate.live.board import Board, Progress, board
from replicate.live.grid import Grid

ROOT = Path(__file__).parents[2]


def drawn(experiment: Experiment, now: Board, width: int, height: int, head: str = "head", **more: object) -> list[str]:
    console = Console(file=StringIO(), width=width, height=height)
    console.print(Grid(experiment, now, head, **more))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def half_done(experiment: Experiment) -> Board:
    """Of each cell of five seeds: two done, one n/c, one under way; every second cell has an error."""
    results, progress = {}, {}
    for number, run in enumerate(experiment.runs()):
        if run.seed < 3:
            status = "not_converged" if run.seed == 2 else "converged"
            results[run.run_id] = replace(ended(run, status, 92.3), seconds=5400.0)
        elif run.seed == 3 and number % 2:
            results[run.run_id] = ended(run, "error")
        elif run.seed == 4:
            progress[run.run_id] = Progress(45_000, 81.25, "gpu 7", "process 123456 on a-long-host-name", number > 50)
    return board(experiment.runs(), "init", "activation", results, progress, {})


def test_a_table_of_five_by_five_with_five_seeds_fits_80_columns() -> None:
    experiment = Experiment.load(ROOT / "experiments" / "table3.yaml")
    lines = drawn(experiment, half_done(experiment), 80, 50)
    assert lines[1].startswith("115 runs: 69 done, ")
    assert lines[2].split() == ["init", "maxout", "ReLU", "VLReLU", "tanh", "sigmoid"]
    assert lines[4].split() == ["LSUV", *["3/5", "92.3", "%"] * 5]
    end = next(number for number, line in enumerate(lines) if line.startswith("under way"))
    labels = [line.split()[0] for line in lines[4:end] if line[:1].isalpha()]
    assert labels == ["LSUV", "OrthoNorm", "OrthoNorm-MSRA", "scaled", "Xavier", "MSRA"]
    assert "…" not in "".join(lines[:end])  # nothing of the grid is cut off
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if "orthonormal_msra-sigmoid-s4" in line)
    assert row.split()[2:8] == ["45,000", "of", "90,000", "81.2", "%", "45"]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 30), (200, 60), (50, 20), (12, 5), (1, 1)])
def test_it_is_no_higher_than_the_terminal_but_for_the_grid_itself(width: int, height: int) -> None:
    experiment = Experiment.load(ROOT / "experiments" / "table3.yaml")
    lines = drawn(experiment, half_done(experiment), width, height)
    whole = drawn(experiment, half_done(experiment), width, height, fits=False)
    alone = next((number for number, line in enumerate(whole) if line.startswith("under")), len(whole))
    assert len(lines) < max(height, alone + 1) + (width < 12) * 10
    assert max(map(len, lines)) <= width


def test_runs_that_have_no_room_are_counted() -> None:
    experiment = Experiment.load(ROOT / "experiments" / "table3.yaml")
    now = half_done(experiment)
    lines = drawn(experiment, now, 120, 40)
    shown = sum(" of 90,000" in line for line in lines)
    (more,) = (line for line in lines if "more under way" in line)
    assert more == f"… and {23 - shown} more under way"
    assert shown > 0


def test_names_are_no_markup_and_nothing_for_the_terminal(experiment: Experiment) -> None:
    runs = experiment.runs()
    progress = {runs[0].run_id: Progress(1, None, "[red]gpu[/red]", "process 1 on \x1b[2J")}
    now = board(runs, "init", "activation", {}, progress, {})
    text = "\n".join(drawn(experiment, now, 200, 50, "[bold]x[/bold]\x1b[2J", notes=["[/red]"]))
    assert "[bold]x[/bold]\\x1b[2J" in text
    assert "[red]gpu[/red], process 1 on \\x1b[2J" in text
    assert "\n[/red]\n" in text
    assert "\x1b" not in text
