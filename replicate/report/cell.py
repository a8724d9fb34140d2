"""Cells of a table: the runs that differ only in their seed, and how they ended. Results in, counts out."""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from statistics import fmean, stdev
from typing import Any, Self

from replicate.errors import UsageError
from replicate.experiment import Experiment
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
        converged = [result for result in found if result is not None and result.status == "converged"]
        count = Counter("error" if result is None else result.status for result in found)
        return cls(
            expected,
            seeds=tuple(result.run.seed for result in converged),
            accuracies=tuple(result.test_accuracy or 0.0 for result in converged),  # which they all have
            not_converged=count["not_converged"],
            diverged=count["diverged"],
            errors=count["error"],
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
        run_ids: of the records, in the order of the runs.
    """

    row: Any
    column: Any
    run: Run
    run_ids: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the cell: `LSUV × maxout`."""
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
        if field := differing_field(group, free=("seed",)):
            values = " and ".join(display_name(value) for value in dict.fromkeys(getattr(run, field) for run in group))
            raise UsageError(
                f"the runs of {cell_name(row, column)} differ in {field} ({values}), but the runs of a cell may differ "
                f"only in their seed; pick one {field} with --only or --set"
            )
        ended = {run.run_id: results[run.run_id] for run in group if run.run_id in results}
        found.append(Cell.of(len(group), ended.values(), row=row, column=column, run=group[0], run_ids=tuple(ended)))
    return tuple(found)


def axis_values(experiment: Experiment, runs: Iterable[Run], axis: str) -> tuple[Any, ...]:
    """The values of an axis that occur among the runs, in the order of the experiment's grid."""
    present = dict.fromkeys(getattr(run, axis) for run in runs)
    return tuple(value for value in experiment.grid.get(axis, present) if value in present)


def left_out(experiment: Experiment, table: Iterable[Cell]) -> list[Run]:
    """One run of each cell of an experiment that is not in a table."""
    axes = attrgetter(experiment.table.rows, experiment.table.columns)
    there = {(cell.row, cell.column) for cell in table}
    return list({axes(run): run for run in experiment.runs() if axes(run) not in there}.values())


def differing_field(runs: Collection[Run], free: Container[str]) -> str | None:
    """The first field of Run, other than those in `free`, in which runs differ; None if there is none."""
    names = [field.name for field in fields(Run) if field.name not in free]
    return next((name for name in names if len({getattr(run, name) for run in runs}) > 1), None)
