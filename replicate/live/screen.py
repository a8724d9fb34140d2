"""What the terminal shows on which a matrix runs: its events as lines, and below them the grid as it is now."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from replicate.experiment import Experiment
from replicate.live.board import Board, Progress, board
from replicate.live.forecast import Pace
from replicate.live.grid import Grid
from replicate.live.look import Looker, Seen
from replicate.matrix.display import Display
from replicate.matrix.slots import Slot
from replicate.run import Run
from replicate.store.result import Result

LOOK_SECONDS = 2.0  # between two looks at what other commands do
END_SECONDS = 5.0  # that a look may take when the matrix ends: a network file system may be out of reach


def display_for(console: Console, experiment: Experiment, runs: Sequence[Run], out: Path) -> Display:
    """Choose how a matrix is shown: drawn on a terminal, as mere lines elsewhere."""
    return Screen(console, experiment, runs, out) if is_drawn_on(console) else Display(console)


def is_drawn_on(console: Console) -> bool:
    """Whether a picture can be drawn again and again in its place."""
    return console.is_terminal and not console.is_dumb_terminal


class Screen(Display):
    """Draws a matrix while it runs.

    What this command runs is known from its own events; what others run and have finished, from the output folder.

    Args:
        console: a terminal.
        experiment: gives the axes and the title.
        runs: that were asked for.
        out: the output folder.
    """

    def __init__(self, console: Console, experiment: Experiment, runs: Sequence[Run], out: Path) -> None:
        super().__init__(console)
        self._experiment, self._runs, self._out = experiment, runs, out
        self._looker, self._pace = Looker(out, runs), Pace()
        self._lock = threading.Lock()
        self._seen = Seen({}, {}, 0)
        self._mine: dict[str, Progress] = {}
        self._ended: dict[str, Result | None] = {}
        self._reading: tuple[int, int] | None = None
        self._begun, self._end = False, threading.Event()
        self._live = Live(get_renderable=self._draw, console=console, refresh_per_second=2)
        self._thread = threading.Thread(target=self._look_again, daemon=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._begun:
            self._thread.join(END_SECONDS)
            with self._lock:
                self._mine.clear()  # what was still running has been stopped
            if not self._thread.is_alive():
                self._look()
        self._live.stop()

    def reading(self, done: int, total: int) -> None:
        """Draw a bar until all is read."""
        with self._lock:
            self._reading = (done, total) if done < total else None
        self._live.start(refresh=True)

    def begin(self, finished: int, total: int) -> None:
        """Draw the grid from now on."""
        super().begin(finished, total)
        self._look()
        self._begun = True
        self._live.start(refresh=True)
        self._thread.start()

    def started(self, run: Run, slot: Slot) -> None:
        """Show a run as running here."""
        with self._lock:
            self._ended.pop(run.run_id, None)
            self._mine[run.run_id] = Progress(device=slot.name)

    def progressed(self, run: Run, iteration: int, accuracy: float | None) -> None:
        """Show how far a run is."""
        with self._lock:
            self._mine[run.run_id] = Progress(iteration, accuracy, self._mine[run.run_id].device)
            self._pace.told(run.run_id, iteration)

    def left(self, run: Run) -> None:
        """Show a run as waiting, until more is heard of it."""
        with self._lock:
            self._mine.pop(run.run_id, None)
            self._pace.forget(run.run_id)
            # Our own claim, as the last look found it, is no other command's.
            self._seen = replace(self._seen, progress=_without(self._seen.progress, run))

    def ended(self, run: Run, result: Result | None) -> None:
        """Tell of a run's end, and show its cell so."""
        with self._lock:
            self._ended[run.run_id] = result
        super().ended(run, result)

    @property
    def board(self) -> Board:
        """The state of the matrix as far as it is known now."""
        with self._lock:
            # The error of an earlier call is tried again: here the run waits.
            final = {name: result for name, result in self._seen.results.items() if result.final}
            progress, rates = {**self._seen.progress, **self._mine}, self._pace.rates
            ended = {**self._ended, **final}
        table = self._experiment.table
        return board(self._runs, table.rows, table.columns, ended, progress, rates)

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._reading is not None:
            done, total = self._reading
            parts += [Text(f"reading images: {done:,} of {total:,}"), ProgressBar(total, done, width=40)]
        if self._begun:
            parts.append(Grid(self._experiment, self.board, f"{self._experiment.name} in {self._out}"))
        return Group(*parts)

    def _look_again(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        seen = self._looker.look()
        others = {name: replace(one, elsewhere=True) for name, one in seen.progress.items()}
        with self._lock:
            self._seen = replace(seen, progress=others)
            for name, one in others.items():
                if name not in self._mine:
                    self._pace.told(name, one.iteration)


def _without(progress: Mapping[str, Progress], run: Run) -> dict[str, Progress]:
    return {name: one for name, one in progress.items() if name != run.run_id}
