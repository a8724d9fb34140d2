"""The state of a matrix: each cell, all together, and the runs under way. Plain data in, numbers out; nothing draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicate.live.forecast import forecast
from replicate.report.cell import Tally
from replicate.run import Run
from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run under way is.

    Args:
        iteration: done so far.
        accuracy: the latest test accuracy in %; None before the first.
        device: where it runs, for people.
        holder: the process that runs it, for people.
        elsewhere: whether it is another command's than the one that shows it.
    """

    iteration: int = 0
    accuracy: float | None = None
    device: str = ""
    holder: str = ""
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A run under way, and the seconds that it will still take; None where nothing tells."""

    run: Run
    progress: Progress
    left: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CellProgress(Tally):
    """How far the runs of a cell are, or all runs. A run that is tried again counts as running, not as an error.

    Args:
        here: how far, from 0 to 1, each run under way is.
        elsewhere: likewise for those of another command.
    """

    here: tuple[float, ...]
    elsewhere: tuple[float, ...]

    @property
    def running(self) -> int:
        """Number of runs under way, here and elsewhere."""
        return len(self.here) + len(self.elsewhere)

    @property
    def waiting(self) -> int:
        """Number of runs that nobody works on and that have not ended."""
        return self.missing - self.running


@dataclass(frozen=True, slots=True)
class Board:
    """The state of a matrix.

    Args:
        rows: values of the field that makes the rows, in their order.
        columns: likewise for the columns.
        cells: by row and column; one that no run belongs to is not in it.
        whole: all runs.
        under_way: runs under way, in the order of the runs.
        images_per_second: of all runs under way whose speed is known; None: of none.
        left: seconds until all is done; None where nothing is under way, or nothing tells how fast it goes.
    """

    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    cells: Mapping[tuple[Any, Any], CellProgress]
    whole: CellProgress
    under_way: tuple[UnderWay, ...]
    images_per_second: float | None
    left: float | None

    @property
    def over(self) -> bool:
        """Whether nothing is under way or waiting."""
        return not self.whole.running and not self.whole.waiting


def board(
    runs: Sequence[Run],
    rows: str,
    columns: str,
    results: Mapping[str, Result | None],
    progress: Mapping[str, Progress],
    rates: Mapping[str, float],
) -> Board:
    """Lay out the state of runs.

    Args:
        runs: all that were asked for.
        rows: field of Run that makes the rows.
        columns: field of Run that makes the columns.
        results: run_id -> record; None: an error that left no record. Where one is final, it is the last word.
        progress: run_id -> how far it is, of the runs under way; one that is tried again has the record of an error.
        rates: run_id -> iterations per second, where known.
    """
    by_id = {run.run_id: run for run in runs}
    ended = {name: result for name, result in results.items() if name in by_id}
    going = {name: progress[name] for name in by_id if name in progress and not _final(ended.get(name))}
    ended = {name: result for name, result in ended.items() if name not in going}
    groups: dict[tuple[Any, Any], dict[str, Run]] = {}
    for name, run in by_id.items():
        groups.setdefault((getattr(run, rows), getattr(run, columns)), {})[name] = run
    told = forecast(by_id, ended, {name: one.iteration for name, one in going.items()}, rates)
    return Board(
        rows=tuple(dict.fromkeys(row for row, _ in groups)),
        columns=tuple(dict.fromkeys(getattr(run, columns) for run in runs)),
        cells={key: _progress(group, ended, going) for key, group in groups.items()},
        whole=_progress(by_id, ended, going),
        under_way=tuple(UnderWay(by_id[name], one, told.each.get(name)) for name, one in going.items()),
        images_per_second=told.images_per_second,
        left=told.whole,
    )


def _final(result: Result | None) -> bool:
    return result is not None and result.final


def _progress(
    runs: Mapping[str, Run], ended: Mapping[str, Result | None], going: Mapping[str, Progress]
) -> CellProgress:
    running = [(going[name], run.iterations) for name, run in runs.items() if name in going]
    return CellProgress.of(
        len(runs),
        (ended[name] for name in runs if name in ended),
        here=tuple(one.iteration / iterations for one, iterations in running if not one.elsewhere),
        elsewhere=tuple(one.iteration / iterations for one, iterations in running if one.elsewhere),
    )
