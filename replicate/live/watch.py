"""The state of a matrix seen from any shell, once or until all is done: from its records and heartbeats alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from replicate.experiment import Experiment
from replicate.live.board import Board, board
from replicate.live.forecast import Pace
from replicate.live.grid import Grid
from replicate.live.look import Looker, Seen
from replicate.live.screen import LOOK_SECONDS, is_drawn_on
from replicate.live.words import totals
from replicate.matrix.display import outcome
from replicate.report.text import count
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.run_folder import count_others


class View:
    """The runs of an experiment as their output folder shows them.

    Args:
        experiment: gives the table's axes.
        runs: that were asked for.
        out: the folder they are in; it may be empty, or not there yet.
    """

    def __init__(self, experiment: Experiment, runs: Sequence[Run], out: Path) -> None:
        self._experiment, self._runs, self._out = experiment, runs, out
        self._looker, self._pace = Looker(out, runs), Pace()
        self._others = count_others(out, {run.run_id for run in runs})

    def look(self) -> tuple[Seen, Board]:
        """Look at all runs."""
        seen, table = self._looker.look(), self._experiment.table
        for name, one in seen.progress.items():
            self._pace.told(name, one.iteration)
        return seen, board(self._runs, table.rows, table.columns, seen.results, seen.progress, self._pace.rates)

    def looks(self, tend: Callable[[Seen], bool] | None) -> Iterator[tuple[Seen, Board]]:
        """Look again and again, until all is done or `tend` returns False."""
        was_over = False
        while True:
            seen, now = self.look()
            yield seen, now
            if tend is not None:
                if not tend(seen):
                    return
            # After an error the run may be tried again: what is over stays over from one look to the next.
            elif now.over and (was_over or not now.whole.errors):
                return
            was_over = now.over
            time.sleep(LOOK_SECONDS)

    def drawn(self, seen: Seen, now: Board, fits: bool) -> Grid:
        """Draw what a look has shown; `fits`: in the height of the terminal."""
        notes = [f"{count(seen.bad, 'unreadable record')}; the matrix does these runs again"] if seen.bad else []
        notes += [f"{count(self._others, 'record')} of other settings in the folder"] if self._others else []
        return Grid(self._experiment, now, f"{self._experiment.name} in {self._out}", notes, fits)


def show(view: View, console: Console) -> int:
    """Print the state of runs once; the exit code is 0."""
    console.print(view.drawn(*view.look(), fits=False))
    return 0


def watch(view: View, console: Console, tend: Callable[[Seen], bool] | None = None) -> int:
    """Show the state of runs until all are done: drawn on a terminal, elsewhere a line for each change.

    Args:
        view: of the runs.
        console: where to.
        tend: is called after each look, and says whether to go on.

    Returns:
        The exit code: 0 all is done, 1 some runs ended in an error.

    Raises:
        KeyboardInterrupt: Ctrl-C, or SIGTERM.
    """
    errors = 0
    if is_drawn_on(console):
        with Live(console=console, auto_refresh=False) as live:
            for seen, now in view.looks(tend):
                live.update(view.drawn(seen, now, fits=True), refresh=True)
                errors = now.whole.errors
    else:
        said: dict[str, str] | None = None
        for seen, now in view.looks(tend):
            lines = _states(seen)
            if said is None:
                _line(console, totals(now))
                said = {name: line for name, line in lines.items() if name not in seen.progress}
            done = f"[{now.whole.finished}/{now.whole.expected}]"
            for name in {**lines, **said}:
                if said.get(name) != (line := lines.get(name, "waits")):
                    _line(console, f"{done} {name}: {line}")
            said, errors = {**dict.fromkeys(said, "waits"), **lines}, now.whole.errors
        _line(console, totals(now))
    return 1 if errors else 0


def _states(seen: Seen) -> dict[str, str]:
    """Tell of every run that is under way or has ended; no number that moves, so that a change is news."""
    ended = {name: outcome(result) for name, result in seen.results.items()}
    going = {name: f"runs on {one.device} ({one.holder})" for name, one in seen.progress.items()}
    final = {name: ended[name] for name, result in seen.results.items() if result.final}
    return {**ended, **going, **final}


def _line(console: Console, text: str) -> None:
    console.print(escape_control_chars(text), markup=False, highlight=False, soft_wrap=True)
