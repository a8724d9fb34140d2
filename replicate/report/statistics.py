"""Statistics of a table: cells over seeds, their means and spreads, and differences. Results in, numbers out."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from scipy.special import betaincinv, stdtr, stdtrit

from replicate.errors import UsageError
from replicate.report.axes import title
from replicate.run import Run
from replicate.store.result import Result

LEVEL = 0.95  # of every interval; tests are two-sided at 1 - LEVEL


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval with both of its ends."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: the runs that differ by seed alone, and how they ended. Accuracies are test accuracies in %.

    Args:
        row: the runs' value of the field that makes the table's rows.
        column: likewise for its columns.
        run: the settings that the runs share; only its seed is the first run's own.
        expected: number of runs asked for.
        seeds: of the converged runs.
        accuracies: of the converged runs, in the order of `seeds`.
        not_converged: number of runs that ended at chance.
        diverged: number of runs that met a non-finite loss.
        errors: number of runs that crashed. They have not finished.
    """

    row: Any
    column: Any
    run: Run
    expected: int
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    not_converged: int
    diverged: int
    errors: int

    @property
    def name(self) -> str:
        """The cell for people: `LSUV × maxout`."""
        return f"{title(self.row)} × {title(self.column)}"

    @property
    def converged(self) -> int:
        """Number of converged runs."""
        return len(self.accuracies)

    @property
    def failed(self) -> int:
        """Number of finished runs that did not converge, by either way."""
        return self.not_converged + self.diverged

    @property
    def finished(self) -> int:
        """Number of runs that yielded a result, a failure to converge included."""
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
        """Standard deviation of one run (ddof 1), in percentage points; None if the cell is n/c or below two runs."""
        return None if self.nc or self.converged < 2 else stdev(self.accuracies)

    @property
    def interval(self) -> Interval | None:
        """95 % t interval of the mean; None likewise."""
        if self.mean is None or self.sd is None:
            return None
        half = t_quantile(self.converged - 1) * self.sd / math.sqrt(self.converged)
        return Interval(self.mean - half, self.mean + half)


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
    return tuple(_cell(row, column, group, results) for (row, column), group in groups.items())


def _cell(row: object, column: object, runs: list[Run], results: Mapping[str, Result]) -> Cell:
    first = asdict(runs[0])
    for run in runs:
        if replace(run, seed=runs[0].seed) != runs[0]:
            field = next(key for key, value in asdict(run).items() if key != "seed" and value != first[key])
            values = [
                ", ".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in (first[field], asdict(run)[field])
            ]
            raise UsageError(
                f"the runs of {title(row)} × {title(column)} differ in {field} ({' and '.join(values)}), and "
                f"those of a cell may differ by seed alone; pick one {field} with --only or --set"
            )
    found = [results[run.run_id] for run in runs if run.run_id in results]
    good = [result for result in found if result.status == "converged"]
    count = [result.status for result in found].count
    accuracies = tuple(float(result.test_accuracy) for result in good if result.test_accuracy is not None)
    seeds = tuple(result.run.seed for result in good)
    failures = (count("not_converged"), count("diverged"), count("error"))
    return Cell(row, column, runs[0], len(runs), seeds, accuracies, *failures)


def t_quantile(df: float) -> float:
    """Two-sided critical value of Student's t at LEVEL for `df` degrees of freedom."""
    return float(stdtrit(df, (1 + LEVEL) / 2))


@dataclass(frozen=True, slots=True)
class Pooled:
    """Standard deviation of one run, in percentage points, pooled over cells, and its degrees of freedom."""

    sd: float
    df: int


def pooled(table: Iterable[Cell]) -> Pooled | None:
    """Pool the standard deviation over the converged cells, df = Σ(n - 1); None if no cell has two converged runs."""
    spread = [(cell.converged - 1, cell.sd) for cell in table if cell.sd is not None]
    df = sum(weight for weight, _ in spread)
    return Pooled(math.sqrt(sum(weight * sd**2 for weight, sd in spread) / df), df) if df else None


def prediction_half_width(spread: Pooled, n: int) -> float:
    """Half the 95 % prediction interval of one more run around the mean of n runs: t · s · √(1 + 1/n)."""
    return t_quantile(spread.df) * spread.sd * math.sqrt(1 + 1 / n)


def clopper_pearson(successes: int, trials: int) -> Interval:
    """Exact 95 % interval of a share (Clopper and Pearson 1934), from 0 to 1, for at least one trial."""
    tail = (1 - LEVEL) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return Interval(float(low), float(high))


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of two means, its 95 % interval, and the two-sided p value of no difference."""

    value: float
    interval: Interval
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of `first` less mean of `second`, without assuming equal variances (Welch 1947); both need two values."""
    value = fmean(first) - fmean(second)
    errors = [stdev(sample) ** 2 / len(sample) for sample in (first, second)]
    scale = math.sqrt(sum(errors))
    if scale == 0:  # no spread at all: the difference stands as it is
        return Difference(value, Interval(value, value), 1.0 if value == 0 else 0.0)
    # Welch and Satterthwaite's degrees of freedom, by shares of the variance, which cannot underflow
    shares = [error / sum(errors) for error in errors]
    df = 1 / sum(share**2 / (len(sample) - 1) for share, sample in zip(shares, (first, second), strict=True))
    half = t_quantile(df) * scale
    p = 2 * float(stdtr(df, -abs(value) / scale))
    return Difference(value, Interval(value - half, value + half), p)


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of `first` less `second`, pair by pair, by Student's t with n - 1 degrees of freedom; needs two pairs."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    value, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    df = len(differences) - 1
    half = t_quantile(df) * error
    p = 2 * float(stdtr(df, -abs(value) / error)) if error else float(value == 0)
    return Difference(value, Interval(value - half, value + half), p)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p values for their number (Holm 1979), in the order given; compare them with 1 - LEVEL."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)
