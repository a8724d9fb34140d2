"""How a matrix shows what it does: bars on a terminal, a line an event elsewhere."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from replicate.matrix.slots import Slot
from replicate.results import Result
from replicate.run import Run
from replicate.untrusted import printable

WORDS = {"converged": "converged", "not_converged": "n/c", "diverged": "n/c (diverged)", "error": "ERROR"}


class Display:
    """Tells of a matrix while it runs. Use as a context manager.

    Args:
        console: where to; bars are drawn only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._done = self._total = 0

    def __enter__(self) -> "Display":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def reading(self, done: int, total: int) -> None:
        """Tell that so many images of a data set are decoded."""
        self._update("reading images", done, total)
        if done == total:
            self._remove("reading images")

    def begin(self, finished: int, total: int) -> None:
        """Tell that so many of the runs had been finished before."""
        self._done, self._total = finished, total
        self._update("runs", finished, total)
        done = f", {finished} are done already" if finished else ""
        self.note(f"{total} run{'s' * (total != 1)}{done}")

    def started(self, run: Run, slot: Slot) -> None:
        """Tell that a run was given to a slot."""
        self._update(_title(run), 0, run.iterations)

    def progressed(self, run: Run, iteration: int, accuracy: float | None, holder: str = "") -> None:
        """Tell that a run has done so many iterations; its latest test accuracy in %; who runs it, if not we."""
        shown = "" if accuracy is None else f"{accuracy:.1f} %"
        self._update(_title(run), iteration, run.iterations, f"{shown} ({holder})" if holder else shown)

    def left(self, run: Run) -> None:
        """Tell that a run is not under way any more."""
        self._remove(_title(run))

    def ended(self, run: Run, result: Result | None) -> None:
        """Tell that a run is over; None: in an error that has no record."""
        self._done += 1
        self._remove(_title(run))
        self._update("runs", self._done, self._total)
        if result is None:
            return
        accuracy = "" if result.test_accuracy is None else f" {result.test_accuracy:.2f} %"
        number = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        line = f"{number} {result.run.run_id}: {WORDS[result.status]}{accuracy} in {result.seconds:.0f} s"
        self._console.print(line, markup=False, highlight=False)
        if result.error:
            self._console.print(
                "      " + printable(result.error.strip().splitlines()[-1]), markup=False, highlight=False
            )

    def note(self, text: str) -> None:
        """Tell something that the user should know."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def _update(self, name: str, completed: int, total: int, accuracy: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, accuracy="")
        self._bars.update(self._tasks[name], completed=completed, total=total, accuracy=accuracy)

    def _remove(self, name: str) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))


def _title(run: Run) -> str:
    return f"{run.init} × {run.activation}, seed {run.seed}"
