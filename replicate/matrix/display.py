"""How a matrix tells what it does: a line an event. What is drawn on a terminal besides is live/screen.py's."""

from types import TracebackType

from rich.console import Console

from replicate.matrix.slots import Slot
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.result import Result

WORDS = {"converged": "converged", "not_converged": "n/c", "diverged": "n/c (diverged)", "error": "ERROR"}


class Display:
    """Tells of a matrix while it runs. Use as a context manager.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._total = 0

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def reading(self, done: int, total: int) -> None:
        """Hear that so many images of a data set are decoded."""

    def begin(self, finished: int, total: int) -> None:
        """Tell that so many of the runs had been finished before."""
        self._done, self._total = finished, total
        done = f", {finished} are done already" if finished else ""
        self.note(f"{total} run{'s' * (total != 1)}{done}")

    def started(self, run: Run, slot: Slot) -> None:
        """Hear that a run was given to a slot."""

    def progressed(self, run: Run, iteration: int, accuracy: float | None) -> None:
        """Hear that a run has done so many iterations, and its latest test accuracy in %."""

    def left(self, run: Run) -> None:
        """Hear that a run is not under way any more."""

    def ended(self, run: Run, result: Result | None) -> None:
        """Tell that a run is over; None: in an error that has no record."""
        self._done += 1
        if result is None:
            return
        number = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        self._line(f"{number} {result.run.run_id}: {outcome(result)}")
        if result.error:
            self._line("      " + escape_control_chars(result.error.strip().splitlines()[-1]))

    def note(self, text: str) -> None:
        """Tell something that the user should know."""
        self._console.print(escape_control_chars(text), markup=False, highlight=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)


def outcome(result: Result) -> str:
    """Tell how a run ended: `converged 92.31 % in 5400 s`."""
    accuracy = "" if result.test_accuracy is None else f" {result.test_accuracy:.2f} %"
    return f"{WORDS[result.status]}{accuracy} in {result.seconds:.0f} s"
