"""`replicate search`: carries out the trials of all methods, a round at a time, and sums up what they have found."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from replicate.errors import UsageError
from replicate.report.text import count
from replicate.run import Run
from replicate.search.spec import Method, Search
from replicate.search.study import Outcome, Studies
from replicate.store.run_folder import collect

STOPPED = 3  # exit code of a matrix that was stopped before all its runs were done
CarryOut = Callable[[tuple[Run, ...]], int]


def search(spec: Search, out: Path, carry_out: CarryOut, console: Console) -> tuple[int, list[Outcome]]:
    """Carry out a search, or continue it.

    Args:
        spec: the search.
        out: the output folder.
        carry_out: carries out runs in that folder; returns the exit code of a matrix.
        console: shows which round begins.

    Returns:
        The exit code: 0; 1 if runs ended in an error, 3 if the search was stopped; and what its trials have found.

    Raises:
        UsageError: another process searches in that folder, or it belongs to a search with other settings.
    """
    code = 0
    with _alone(out):
        studies = Studies(spec, out)
        rounds = {method: studies.rounds(method) for method in spec.methods}
        while needed := _next_round(rounds):
            runs = tuple(dict.fromkeys(run for each in needed.values() for run in each))
            there = collect(out, runs).results
            if todo := [run for run in runs if run.run_id not in there or not there[run.run_id].final]:
                parts = (f"{method} {count(len(each), 'trial')}" for method, each in needed.items())
                console.print(f"next: {', '.join(parts)}; {count(len(todo), 'run')} to carry out", highlight=False)
                code = max(code, carry_out(runs))
            if code == STOPPED:
                break
        return code, studies.outcomes()


def _next_round(rounds: dict[Method, Iterator[list[Run]]]) -> Mapping[Method, list[Run]]:
    """The runs that each method needs next; a method that has ended is removed."""
    needed = {}
    for method, each in [*rounds.items()]:
        if (runs := next(each, None)) is None:
            del rounds[method]
        else:
            needed[method] = runs
    return needed


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Within, no other process searches in this folder. The lock ends with the process."""
    with contextlib.ExitStack() as stack:
        handle = os.open(out, os.O_RDONLY)
        stack.callback(os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process searches in {out}; wait for it, or give another --out") from None
        yield
