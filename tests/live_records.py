"""Records that are told apart by their status alone, for the tests of what is shown live."""

from dataclasses import replace
from pathlib import Path

from workers import record

from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result


def ended(run: Run, status: str = "converged", accuracy: float | None = 90.0) -> Result:
    """Make a record."""
    if status in ("diverged", "error"):
        accuracy = None
    error = "Traceback\nboom" if status == "error" else None
    made = record(run, Options(Path()))
    return replace(made, status=status, test_accuracy=accuracy, seconds=50.0, error=error)
