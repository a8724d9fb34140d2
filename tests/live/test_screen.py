"""What the terminal shows on which a matrix runs."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from live_records import ended
from rich.console import Console
from workers import put

from replicate.experiment import Experiment
from replicate.live import screen
from replicate.live.board import CellProgress, Progress
from replicate.live.forecast import Pace
from replicate.live.screen import Screen, display_for
from replicate.matrix.display import Display
from replicate.matrix.slots import Slot
from replicate.store.lease import acquire, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

GPU = Slot("gpu 0", "cuda", {})


def terminal() -> Console:
    return Console(file=StringIO(), width=100, height=40, force_terminal=True, _environ={"TERM": "xterm"})


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_only_a_terminal_is_drawn_on(experiment: Experiment, tmp_path: Path) -> None:
    dumb = Console(file=StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    for console in (Console(file=StringIO()), dumb):
        assert type(display_for(console, experiment, experiment.runs(), tmp_path)) is Display
    assert type(display_for(terminal(), experiment, experiment.runs(), tmp_path)) is Screen


def test_the_grid_follows_the_events_of_this_command(experiment: Experiment, tmp_path: Path) -> None:
    runs, console = experiment.runs(), terminal()
    failed = ended(runs[0], "error")  # by an earlier call: it is tried again
    put(failed, tmp_path / "runs" / runs[0].run_id)
    with Screen(console, experiment, runs, tmp_path) as shown:
        shown.begin(0, 9)
        assert shown.board.whole == CellProgress(9, (), (), 0, 0, 0, here=(), elsewhere=())
        shown.started(runs[0], GPU)
        shown.started(runs[1], GPU)
        shown.progressed(runs[0], 25, 11.5)
        assert [one.progress for one in shown.board.under_way] == [
            Progress(25, 11.5, "gpu 0"),
            Progress(0, None, "gpu 0"),
        ]
        shown.left(runs[0])
        shown.ended(runs[0], ended(runs[0], accuracy=90.0))
        shown.left(runs[1])
        shown.ended(runs[1], failed)
        shown.started(runs[2], GPU)
        shown.left(runs[2])  # stopped
        assert shown.board.whole == CellProgress(9, (0,), (90.0,), 0, 0, 1, here=(), elsewhere=())
        shown.ended(runs[3], None)
        assert shown.board.whole.errors == 2
        shown.note("something to know")
        shown.started(runs[4], GPU)  # stopped with the matrix
    text = console.file.getvalue()
    assert "something to know" in text
    assert f"[1/9] {runs[0].run_id}: converged 90.00 % in 50 s" in text
    assert text.rindex("9 runs: 1 done, 2 errors, 6 waiting") > text.rindex(
        "something to know"
    )  # the last picture stays


def test_what_other_commands_do_is_seen(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "LOOK_SECONDS", 0.01)
    runs = experiment.runs()
    folder = tmp_path / "runs" / runs[0].run_id
    with Screen(terminal(), experiment, runs, tmp_path) as shown:
        shown.begin(0, 9)
        holding = acquire(RunFolder(folder), Owner("gpu 5", 100, iteration=50, test_accuracy=20.0))
        assert holding is not None
        wait_for(lambda: shown.board.whole.elsewhere == (0.5,))
        holder = f"process {os.getpid()} on {Owner('cpu', 1).host}"
        assert shown.board.under_way[0].progress == Progress(50, 20.0, "gpu 5", holder, elsewhere=True)
        put(ended(runs[0], accuracy=91.0), folder)
        release(RunFolder(folder), holding.token)
        wait_for(lambda: shown.board.whole == CellProgress(9, (0,), (91.0,), 0, 0, 0, here=(), elsewhere=()))


def test_a_claim_of_our_own_is_not_elsewhere(experiment: Experiment, tmp_path: Path) -> None:
    runs = experiment.runs()
    folder = tmp_path / "runs" / runs[0].run_id
    shown = Screen(terminal(), experiment, runs, tmp_path)
    shown.started(runs[0], GPU)
    holding = acquire(RunFolder(folder), Owner("gpu 0", 100, iteration=5))
    assert holding is not None
    shown._look()
    assert (shown.board.whole.here, shown.board.whole.elsewhere) == ((0.0,), ())
    release(RunFolder(folder), holding.token)
    shown.left(runs[0])  # before the next look
    assert shown.board.whole.running == 0


def test_reading_images_is_shown_until_it_is_done(experiment: Experiment, tmp_path: Path) -> None:
    console = terminal()
    with Screen(console, experiment, experiment.runs(), tmp_path) as shown:
        shown.reading(500, 60_000)
        assert "reading images: 500 of 60,000" in console.file.getvalue()
        shown.reading(60_000, 60_000)
    after = Console(file=StringIO())
    after.print(shown._draw())
    assert after.file.getvalue().strip() == ""


def test_nothing_is_drawn_when_nothing_begins(experiment: Experiment, tmp_path: Path) -> None:
    console = terminal()
    with Screen(console, experiment, experiment.runs(), tmp_path):
        pass
    assert console.file.getvalue() == ""


def test_speed_and_time_left(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(screen, "Pace", lambda: Pace(clock=lambda: now[0]))
    runs = experiment.runs()[:2]
    shown = Screen(terminal(), experiment, runs, tmp_path)
    shown.started(runs[0], GPU)
    shown.progressed(runs[0], 10, None)
    assert shown.board.left is None
    now[0] = 4.0
    shown.progressed(runs[0], 30, None)
    # 5 iterations a second: 14 s for the 70 left, then 20 s for the next run
    assert (shown.board.images_per_second, shown.board.left) == (5 * 32, 34.0)
    shown.left(runs[0])
    shown.ended(runs[0], replace(ended(runs[0]), seconds=10.0))
    shown.started(runs[1], GPU)
    assert (shown.board.images_per_second, shown.board.left) == (None, 10.0)
