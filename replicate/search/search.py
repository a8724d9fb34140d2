"""`replicate search`: carries out the trials of all methods, a round at a time."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from rich.console import Console

from replicate.report.text import count
from replicate.run import Run
from replicate.search.spec import Method, Search
from replicate.search.trials import Trials
from replicate.store.result import Result
from replicate.store.run_folder import collect

STOPPED = 3  # exit code of a matrix that was stopped before all its runs were done
CarryOut = Callable[[tuple[Run, ...]], int]


def search(spec: Search, out: Path, carry_out: CarryOut, console: Console) -> tuple[int, Trials]:
    """Carry out a search, or what is missing of it.

    Args:
        spec: the search.
        out: the output folder.
        carry_out: carries out runs in that folder; returns the exit code of a matrix.
        console: shows which round begins.

    Returns:
        The exit code, and the trials that have ended. 0: all have; 1: some failed, or the search waits for runs that
        failed and may succeed if they are repeated; 3: it was stopped.
    """
    trials = Trials(spec, out)
    rounds = {method: trials.rounds(method) for method in spec.methods}
    while needed := _next_round(rounds):
        runs = tuple(dict.fromkeys(run for each in needed.values() for run in each))
        if todo := _unfinished(runs, out):
            parts = (f"{method} {count(len(each), 'trial')}" for method, each in needed.items())
            console.print(f"next: {', '.join(parts)}; {count(len(todo), 'run')} to carry out", highlight=False)
            code = carry_out(tuple(todo))
            if code == STOPPED or collect(out, runs).results.keys() != {run.run_id for run in runs}:
                return STOPPED, trials
            if _unfinished(runs, out):
                return 1, trials
    return int(any(one.state == "failed" for one in trials.outcomes)), trials


def _unfinished(runs: tuple[Run, ...], out: Path) -> list[Run]:
    """The runs that have no record, or that of a transient failure. Other failures would be repeated."""

    def is_missing(result: Result | None) -> bool:
        return result is None or (not result.final and result.passing is not None)

    there = collect(out, runs).results
    return [run for run in runs if is_missing(there.get(run.run_id))]


def _next_round(rounds: dict[Method, Iterator[list[Run]]]) -> Mapping[Method, list[Run]]:
    """The runs that each method needs next; a method that has ended is removed."""
    needed = {}
    for method, each in [*rounds.items()]:
        if (runs := next(each, None)) is None:
            del rounds[method]
        else:
            needed[method] = runs
    return needed
