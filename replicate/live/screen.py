"""The terminal: shows the matrix that this command runs, and the one that other commands run."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from replicate.experiment import Experiment
from replicate.live.format import draw, totals
from replicate.live.others import other_records
from replicate.live.state import MatrixState, Observation, Progress, RunMonitor, SpeedMeter
from replicate.matrix.display import Display, outcome
from replicate.matrix.resources import Slot
from replicate.report.text import count
from replicate.run import Run
from replicate.store.result import Result

MAX_GROUPS = 2  # of other records that are worth a line
LOOK_SECONDS = 2.0  # between two looks at the output folder


def display_for(console: Console, experiment: Experiment, runs: Sequence[Run], out: Path) -> Display:
    """Choose how a matrix is shown: as a grid on a terminal, elsewhere as one line per event."""
    return LiveDisplay(console, experiment, runs, out) if can_redraw(console) else Display(console)


def can_redraw(console: Console) -> bool:
    """Whether the console can replace what it has drawn."""
    return console.is_terminal and not console.is_dumb_terminal


class _Live(Live):
    """Leaves no stray lines.

    When the terminal was resized, the screen is cleared: the terminal has wrapped the lines, and Rich would not find
    them all.
    """

    def refresh(self) -> None:
        """Draw the picture again."""
        size, self._size = getattr(self, "_size", self.console.size), self.console.size
        if size != self._size:
            self.console.clear()
        super().refresh()

    def stop(self) -> None:
        """End. Rich would draw the whole picture once more, of which a low terminal would keep the top."""
        if self.transient:
            self._get_renderable = Text
        super().stop()


class LiveDisplay(Display):
    """Prints the events of a matrix, and keeps its grid below them until the matrix ends.

    What this command runs is known from its events; what other commands run and have finished, from the output folder.
    Rich draws in a thread of its own, so each change of a dictionary and each copy is a single, atomic step.

    Args:
        console: a terminal.
        experiment: gives the axes and the title.
        runs: of the matrix.
        out: the output folder.
    """

    def __init__(self, console: Console, experiment: Experiment, runs: Sequence[Run], out: Path) -> None:
        super().__init__(console)
        self._experiment, self._title = experiment, f"{experiment.name} in {out}"
        self._monitor, self._meter = RunMonitor(out, runs), SpeedMeter()
        self._own: dict[str, Progress] = {}
        self._others: dict[str, Progress] = {}
        self._results: dict[str, Result | None] = {}
        self._reading, self._begun, self._over = "", False, threading.Event()
        self._live = _Live(get_renderable=self._draw, console=console, refresh_per_second=2, transient=True)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._live.stop()

    def reading(self, done: int, total: int) -> None:
        """Show how many images are read, until all are."""
        self._reading = f"reading images: {done:,} of {total:,}" if done < total else ""
        self._live.start(refresh=True)

    def begin(self, finished: int, total: int) -> None:
        """Show the grid from now on."""
        super().begin(finished, total)
        self._look()
        self._begun = True
        self._live.start(refresh=True)
        threading.Thread(target=self._keep_looking, daemon=True).start()

    def progressed(self, run: Run, slot: Slot, iteration: int, accuracy: float | None, stage: str = "") -> None:
        """Show a run as running here."""
        self._results.pop(run.run_id, None)
        self._own[run.run_id] = Progress(run.iterations, iteration, accuracy, slot.name, stage=stage)

    def released(self, run: Run) -> None:
        """Show a run as waiting, until there is news of it."""
        self._own.pop(run.run_id, None)

    def ended(self, run: Run, result: Result | None) -> None:
        """Print how a run ended, and show it in its cell."""
        self._results[run.run_id] = result
        super().ended(run, result)

    def state(self) -> MatrixState:
        """The state of the matrix, as far as it is known now."""
        seen = Observation(dict(self._results), {**self._others, **self._own})
        return MatrixState(self._experiment, self._monitor.runs, seen, self._meter.update(seen.progress))

    def _keep_looking(self) -> None:
        """Look again and again, in a thread of its own: a slow file system must not delay events and drawing."""
        while not self._over.wait(LOOK_SECONDS):
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        seen = self._monitor.look()
        # An error of an earlier call is not shown: this command tries the run again.
        self._results |= {name: result for name, result in seen.results.items() if result and result.final}
        others = seen.progress.keys() - self._own
        self._others = {name: replace(seen.progress[name], elsewhere=True) for name in others}

    def _draw(self) -> Group | Text:
        return draw(self.state(), self._title) if self._begun else Text(self._reading)


class StatusView:
    """Shows the state of runs from any terminal, from their records and heartbeats in the output folder.

    Args:
        experiment: gives the axes and the title.
        runs: to show.
        out: the output folder; it need not exist.
        console: where to print.
    """

    def __init__(self, experiment: Experiment, runs: Sequence[Run], out: Path, console: Console) -> None:
        self._experiment, self._out, self._console = experiment, out, console
        self._monitor = RunMonitor(out, runs)
        self._others = other_records(out, runs)

    def show(self) -> int:
        """Print the state once, and return the exit code 0."""
        self._console.print(self._draw(next(self._states(None))))
        return 0

    def watch(self, keep_watching: Callable[[Observation], bool] | None = None) -> int:
        """Show the state until all runs are over: as a grid on a terminal, elsewhere as one line per change.

        Args:
            keep_watching: decides after each look whether to continue; None: continue until all runs are over.

        Returns:
            The exit code: 0, or 1 if some runs ended in an error.

        Raises:
            KeyboardInterrupt: Ctrl-C, or SIGTERM.
        """
        states = self._states(keep_watching)
        if can_redraw(self._console):
            # A command that carries out runs says at its end how they ended.
            with _Live(console=self._console, auto_refresh=False, transient=keep_watching is not None) as live:
                for state in states:
                    live.update(self._draw(state), refresh=True)
        else:
            state = self._print_changes(states)
        return int(state.total.errors > 0)

    def _states(self, keep_watching: Callable[[Observation], bool] | None) -> Iterator[MatrixState]:
        meter, was_over = SpeedMeter(), False
        while True:
            seen = self._monitor.look()
            state = MatrixState(self._experiment, self._monitor.runs, seen, meter.update(seen.progress))
            yield state
            if keep_watching is not None and not keep_watching(seen):
                return
            if keep_watching is None and getattr(sys.stdout, "error", None):
                return  # nobody can read it any more
            over = not state.total.running and not state.total.waiting
            # A run that ended in an error may be tried again at once, so two looks must agree.
            if keep_watching is None and over and (was_over or not state.total.errors):
                return
            was_over = over
            time.sleep(LOOK_SECONDS)

    def _draw(self, state: MatrixState) -> Group:
        bad = state.seen.bad
        notes = [f"{count(bad, 'unreadable record')}; the matrix will repeat these runs"] if bad else []
        notes += [f"also in the folder: {others}" for others in self._others[:MAX_GROUPS]]
        return draw(state, f"{self._experiment.name} in {self._out}", notes)

    def _print_changes(self, states: Iterator[MatrixState]) -> MatrixState:
        display, known = Display(self._console), dict[str, str]()
        for state in states:
            lines = {name: _describe(name, state) for name in self._monitor.runs}
            if not known:
                said = totals(state)
                display.note(said)
                known = {name: "waiting" if name in state.running else line for name, line in lines.items()}
            for name, line in lines.items():
                if line != known[name]:
                    display.note(f"[{state.total.finished}/{state.total.expected}] {name}: {line}")
            known = lines
        if totals(state) != said:
            display.note(totals(state))
        return state


def _describe(run_id: str, state: MatrixState) -> str:
    """The state of a run in words, without any number that changes while it runs."""
    if result := state.ended.get(run_id):
        return outcome(result)
    progress = state.running.get(run_id)
    return f"running on {progress.device} ({progress.holder})" if progress else "waiting"
