"""The terminal: of the command that runs a matrix, and of `status`."""

import os
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
from rich.console import Console
from slurm_cluster import wait
from workers import ended, put

from replicate.cli import main
from replicate.experiment import Experiment
from replicate.live import screen
from replicate.live.screen import LiveDisplay, StatusView, display_for
from replicate.live.state import CellProgress, Progress
from replicate.matrix.display import Display
from replicate.matrix.resources import Slot
from replicate.run import Run
from replicate.store.lease import acquire, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

GPU = Slot("gpu 0", "cuda", {})


def terminal() -> Console:
    return Console(file=StringIO(), width=100, height=40, force_terminal=True, _environ={"TERM": "xterm"})


def test_only_a_terminal_is_drawn_on(experiment: Experiment, tmp_path: Path) -> None:
    dumb = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    consoles = (Console(file=StringIO()), dumb, terminal())
    chosen = [type(display_for(console, experiment, experiment.runs(), tmp_path)) for console in consoles]
    assert chosen == [Display, Display, LiveDisplay]


def test_the_grid_shows_the_runs_of_this_command_and_of_others(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "LOOK_SECONDS", 0.01)
    mine, other, stopped, *more = runs = experiment.runs()
    console = terminal()
    put(ended(mine, "error"), tmp_path / "runs" / mine.run_id)  # by an earlier call: it is tried again
    leases = [acquire(RunFolder.of(tmp_path, run), Owner("gpu 5", 100, iteration=50)) for run in (mine, other)]
    with LiveDisplay(console, experiment, runs, tmp_path) as display:
        display.reading(500, 60_000)
        assert "reading images: 500 of 60,000" in console.file.getvalue()
        display.reading(60_000, 60_000)
        display.begin(0, 9)
        display.progressed(mine, GPU, 25, 11.5)
        theirs = Progress(100, 50, None, "gpu 5", f"process {os.getpid()} on {Owner('cpu', 1).host}", elsewhere=True)
        running = {mine.run_id: Progress(100, 25, 11.5, "gpu 0"), other.run_id: theirs}
        wait(lambda: display.state().running == running, "a look")  # a lease of our own is not elsewhere
        for lease in leases:
            release(lease.folder, lease.token)
        put(ended(other, accuracy=91.0), tmp_path / "runs" / other.run_id)
        display.progressed(stopped, GPU, 0, None)
        for run in (mine, stopped):
            display.released(run)
        for run, result in zip((mine, *more), (ended(mine), ended(more[0], "error"), None), strict=False):
            display.ended(run, result)
        wait(lambda: display.state().total == CellProgress(9, (mine.seed, other.seed), (90.0, 91.0), 0, 0, 2), "a look")
        display.note("something to know")
        display.progressed(more[2], GPU, 0, None)  # stopped with the matrix
        display._live.refresh()
    text = console.file.getvalue()
    assert f"[1/9] {mine.run_id}: converged 90.00 % in 50 s" in text
    assert text.rindex("9 runs: 2 done, 2 errors, 1 running, 4 waiting") > text.rindex("something to know")
    assert text.rindex("\x1b[2K") > text.rindex("running elsewhere")  # at its end, the picture is erased
    assert "60,000 of 60,000" not in text


def test_the_legend_is_whole_also_below_a_line_that_is_not_wrapped(experiment: Experiment, tmp_path: Path) -> None:
    console = terminal()
    with LiveDisplay(console, experiment, experiment.runs(), tmp_path) as display:
        display.begin(0, 9)
        display.note("something to know")
        text = console.file.getvalue()
    assert 1 < text.count("running elsewhere") == text.count("finite")


def test_a_terminal_that_was_resized_is_cleared(experiment: Experiment, tmp_path: Path) -> None:
    console = terminal()
    with LiveDisplay(console, experiment, experiment.runs(), tmp_path) as display:
        display.begin(0, 9)
        display._live.refresh()
        before = console.file.getvalue()
        console.width = 60
        display._live.refresh()
    clear = "\x1b[2J\x1b[H"
    assert clear not in before
    assert console.file.getvalue().count(clear) == 1


@pytest.fixture
def three(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Path, Run]:
    """Folder -> run, of the cell lsuv × tanh."""
    monkeypatch.setattr(screen, "LOOK_SECONDS", 0.0)
    runs = experiment.runs({"init": ["lsuv"], "activation": ["tanh"]})
    return {tmp_path / "runs" / run.run_id: run for run in runs}


def test_watch_prints_one_line_per_change(
    experiment: Experiment, tmp_path: Path, three: dict[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = three
    owner, token = Owner("gpu 1", 100, iteration=50), "t" * 16

    def events() -> Iterator[object]:
        yield acquire(RunFolder(second), owner, token)
        yield release(RunFolder(second), token)
        yield put(ended(three[second], "error"), second)
        yield acquire(RunFolder(second), owner, token)  # it is tried again
        yield put(ended(three[second], accuracy=80.0), second)
        yield put(ended(three[third], "diverged"), third)

    put(ended(three[first], accuracy=90.0), first)
    console, after_each_look = Console(file=StringIO()), events()
    # a command that tends workers continues without a reader
    monkeypatch.setattr(sys.stdout, "error", OSError(), raising=False)
    view = StatusView(experiment, list(three.values()), tmp_path, console)
    assert view.watch(lambda seen: next(after_each_look, False) is not False) == 0
    place = f"gpu 1 (process {os.getpid()} on {owner.host})"
    assert console.file.getvalue().splitlines() == [
        "3 runs: 1 done, 2 waiting",
        f"[1/3] {second.name}: running on {place}",
        f"[1/3] {second.name}: waiting",
        f"[1/3] {second.name}: ERROR in 50 s",
        f"[1/3] {second.name}: running on {place}",
        f"[2/3] {second.name}: converged 80.00 % in 50 s",
        f"[3/3] {third.name}: n/c (diverged) in 50 s",
        "3 runs: 3 done",
    ]


def test_nothing_stays_of_a_watch_that_ends_on_a_low_terminal(
    experiment: Experiment, tmp_path: Path, three: dict[Path, Run]
) -> None:
    console = terminal()
    console.height = 5
    looks = iter((True, False))
    StatusView(experiment, list(three.values()), tmp_path, console).watch(lambda seen: next(looks))
    pictures = console.file.getvalue().split(f"{experiment.name} in {tmp_path}")[1:]
    assert [picture.count("\n") for picture in pictures[:-1]] == [4]  # the fifth line says that there is more
    assert "running elsewhere" not in console.file.getvalue()  # it is below


def test_watching_what_is_over_prints_one_line(experiment: Experiment, tmp_path: Path, three: dict[Path, Run]) -> None:
    for folder, run in three.items():
        put(ended(run), folder)
    console = Console(file=StringIO())
    assert StatusView(experiment, list(three.values()), tmp_path, console).watch() == 0
    assert console.file.getvalue().splitlines() == ["3 runs: 3 done"]


def test_exit_codes_of_watch(experiment: Experiment, tmp_path: Path, three: dict[Path, Run]) -> None:
    words = ["status", str(tmp_path / "small.yaml"), "--out", str(tmp_path), "--only", "init=lsuv", "activation=tanh"]
    for (folder, run), status in zip(three.items(), ("converged", "error", "not_converged"), strict=True):
        put(ended(run, status, 10.0), folder)
    assert main([*words, "--watch"]) == 1
    console = terminal()
    assert StatusView(experiment, list(three.values()), tmp_path, console).watch() == 1
    assert console.file.getvalue().count("3 runs: 2 done, 1 error") >= 2  # two looks agree
    with patch.object(screen.time, "sleep", side_effect=KeyboardInterrupt):
        assert main([*words, "--watch"]) == 3
