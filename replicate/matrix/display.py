"""Shows what a matrix does, one line per event. live/screen.py draws the grid on a terminal."""

from rich.console import Console

from replicate.matrix.resources import Slot
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.result import Result

WORDS = {"converged": "converged", "not_converged": "n/c", "diverged": "n/c (diverged)", "error": "ERROR"}


class Display:
    """Shows a matrix while it runs. Use as a context manager.

    Args:
        console: where the lines are printed.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = self._total = 0

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def reading(self, done: int, total: int) -> None:
        """Show how many images of a data set are decoded."""

    def begin(self, finished: int, total: int) -> None:
        """Show how many of the runs had been finished before."""
        self._done, self._total = finished, total
        done = f", {finished} already done" if finished else ""
        self.note(f"{total} run{'s' * (total != 1)}{done}")

    def progressed(self, run: Run, slot: Slot, iteration: int, accuracy: float | None, stage: str = "") -> None:
        """Show how far a run is in its slot: iterations done, latest test accuracy in %, and the stage of its start."""

    def released(self, run: Run) -> None:
        """Show that a run has left its slot."""

    def ended(self, run: Run, result: Result | None) -> None:
        """Show that a run has finished or failed for good; None: in an error that has no record."""
        self._done += 1
        if result is None:
            return
        number = f"[{self._done:>{len(str(self._total))}}/{self._total}]"
        self.note(f"{number} {result.run.run_id}: {outcome(result)}")
        for text in result.set_aside or ():
            self.note(f"      it started again, because its checkpoint could not be used; set aside as {text}")
        if result.error:
            self.note(f"      {result.error.strip().splitlines()[-1]}")

    def note(self, text: str) -> None:
        """Show something that the user should know."""
        self._console.print(escape_control_chars(text), markup=False, highlight=False, soft_wrap=True)


def outcome(result: Result) -> str:
    """Describe how a run ended: `converged 92.31 % in 5400 s`."""
    accuracy = "" if result.test_accuracy is None else f" {result.test_accuracy:.2f} %"
    return f"{WORDS[result.status]}{accuracy} in {result.seconds:.0f} s"
