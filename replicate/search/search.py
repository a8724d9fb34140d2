"""`replicate search`: carries out the trials of all methods, a round at a time."""

from collections.abc import Callable, Collection, Generator, Mapping
from inspect import GEN_SUSPENDED, getgeneratorstate
from pathlib import Path

from rich.console import Console

from replicate.report.text import count
from replicate.run import Run
from replicate.search.spec import Method, Search
from replicate.search.trials import Results, Trials
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, read_records

STOPPED = 3  # exit code of a matrix that was stopped before all its runs were done
# Carries out runs; returns the exit code of a matrix. The records are of earlier runs, made on the same data.
CarryOut = Callable[[tuple[Run, ...], Collection[Result]], int]


def search(spec: Search, out: Path, carry_out: CarryOut, console: Console) -> tuple[int, Trials]:
    """Carry out a search, or what is missing of it.

    Args:
        spec: the search.
        out: the output folder.
        carry_out: carries out runs in that folder.
        console: shows which round begins.

    Returns:
        The exit code, and the trials that have ended. 0: all have; 1: some failed, or the search waits for runs that
        failed and may succeed if they are repeated; 3: it was stopped.
    """
    trials, seen = Trials(spec), dict[str, Result]()
    rounds = {method: trials.rounds(method) for method in spec.methods}
    results: Results = {}
    while needed := _next_round(rounds, results):
        runs = {run.run_id: run for each in needed.values() for run in each}
        results = _read(out, runs)
        seen |= results
        if todo := _unfinished(runs, results):
            parts = (f"{method} {count(len(each), 'trial')}" for method, each in needed.items())
            console.print(f"next: {', '.join(parts)}; {count(len(todo), 'run')} to carry out", highlight=False)
            code = carry_out(tuple(todo), seen.values())
            results = _read(out, runs)
            seen |= results
            if code == STOPPED or results.keys() != runs.keys():
                return STOPPED, trials
            if _unfinished(runs, results):
                trials.waiting = True
                return 1, trials
    return int(any(one.state == "failed" for one in trials.outcomes)), trials


def _read(out: Path, runs: Mapping[str, Run]) -> Results:
    return read_records(RunFolder.of(out, run) for run in runs.values())[0]


def _unfinished(runs: Mapping[str, Run], results: Results) -> list[Run]:
    """The runs that have no record, or that of a transient failure. Other failures would be repeated."""
    done = {name for name, result in results.items() if result.final or result.passing is None}
    return [run for name, run in runs.items() if name not in done]


def _next_round(
    rounds: dict[Method, Generator[list[Run], Results, None]], results: Results
) -> Mapping[Method, list[Run]]:
    """Hand on the records of the last round, and return what each method needs next. One that has ended goes."""
    needed = {}
    for method, each in [*rounds.items()]:
        try:
            needed[method] = each.send(results) if getgeneratorstate(each) == GEN_SUSPENDED else next(each)
        except StopIteration:
            del rounds[method]
    return needed
