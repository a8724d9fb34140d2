"""Cells of a table: the runs that differ only in their seed, and how they ended. Results in, counts out."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any, Self

from replicate.errors import UsageError
from replicate.report.text import cell_name, display_name
from replicate.run import Run
from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class Tally:
    """How some runs ended. Accuracies are test accuracies in %.

    Args:
        expected: number of runs asked for.
        seeds: of the converged runs.
        accuracies: of the converged runs, in the order of `seeds`.
        not_converged: number of runs that ended at chance.
        diverged: number of runs that met a non-finite loss.
        errors: number of runs that crashed. They have not finished.
    """

    expected: int
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    not_converged: int
    diverged: int
    errors: int

    @classmethod
    def of(cls, expected: int, results: Iterable[Result | None], **more: Any) -> Self:
        """Count the results of some runs.

        Args:
            expected: number of runs asked for.
            results: of those that ended; None is a crash that left no record.
            more: the fields that a subclass adds.
        """
        found = list(results)
        good = [(r.run.seed, r.test_accuracy) for r in found if r is not None and r.status == "converged"]
        count = ["error" if result is None else result.status for result in found].count
        return cls(
            expected,
            seeds=tuple(seed for seed, _ in good),
            accuracies=tuple(float(accuracy) for _, accuracy in good if accuracy is not None),
            not_converged=count("not_converged"),
            diverged=count("diverged"),
            errors=count("error"),
            **more,
        )

    @property
    def converged(self) -> int:
        """Number of converged runs."""
        return len(self.accuracies)

    @property
    def failed(self) -> int:
        """Number of finished runs that ended at chance or diverged."""
        return self.not_converged + self.diverged

    @property
    def finished(self) -> int:
        """Number of runs with a result; a failure to converge is one."""
        return self.converged + self.failed

    @property
    def missing(self) -> int:
        """Number of runs without a readable record."""
        return self.expected - self.finished - self.errors

    @property
    def nc(self) -> bool:
        """Whether the cell is n/c: more than half of its finished runs failed to converge."""
        return 2 * self.failed > self.finished

    @property
    def n(self) -> int:
        """Number of runs behind what the cell says: the finished ones if it is n/c, else the converged ones."""
        return self.finished if self.nc else self.converged

    @property
    def mean(self) -> float | None:
        """Mean accuracy of the converged runs; None if the cell is n/c or empty."""
        return None if self.nc or not self.accuracies else fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """Standard deviation of one run (ddof 1), in points; None if the cell is n/c or has fewer than two runs."""
        return None if self.nc or self.converged < 2 else stdev(self.accuracies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Tally):
    """One cell of a table.

    Args:
        row: the runs' value of the field that makes the table's rows.
        column: the runs' value of the field that makes its columns.
        run: the settings that the runs share; its seed is that of the first run.
    """

    row: Any
    column: Any
    run: Run

    @property
    def name(self) -> str:
        """The cell for people: `LSUV × maxout`."""
        return cell_name(self.row, self.column)


def cells(runs: Iterable[Run], results: Mapping[str, Result], rows: str, columns: str) -> tuple[Cell, ...]:
    """Group runs into cells, in the order in which the cells first occur.

    Args:
        runs: the runs asked for.
        results: run_id -> Result; runs that are not in it are missing.
        rows: field of Run that makes the rows.
        columns: field of Run that makes the columns.

    Raises:
        UsageError: two runs of a cell differ by more than their seed.
    """
    groups: dict[tuple[Any, Any], list[Run]] = {}
    for run in runs:
        groups.setdefault((getattr(run, rows), getattr(run, columns)), []).append(run)
    found = []
    for (row, column), group in groups.items():
        _require_same_settings(cell_name(row, column), group)
        ended = (results[run.run_id] for run in group if run.run_id in results)
        found.append(Cell.of(len(group), ended, row=row, column=column, run=group[0]))
    return tuple(found)


def _require_same_settings(name: str, runs: list[Run]) -> None:
    first = runs[0]
    for run in runs:
        if replace(run, seed=first.seed) != first:
            field = next(key for key in asdict(run) if key != "seed" and getattr(run, key) != getattr(first, key))
            values = " and ".join(display_name(getattr(one, field)) for one in (first, run))
            raise UsageError(
                f"the runs of {name} differ in {field} ({values}), but the runs of a cell may differ only in their "
                f"seed; pick one {field} with --only or --set"
            )
