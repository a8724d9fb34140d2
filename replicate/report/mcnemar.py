"""McNemar's test: do two trained nets differ in the test images that they classify correctly?"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import bdtr

from replicate.report.statistics import LEVEL
from replicate.run import Run
from replicate.store.result import BadRecordError, Result
from replicate.store.run_folder import PREDICTIONS, RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from replicate.store.predictions import Labels

    Correct = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cells of a column, compared seed by seed on the same test images.

    Args:
        column: value of the table's second axis.
        first: row of the first cell.
        second: row of the second cell.
        seeds: that converged in both.
        only_first: number of test images that only the first net classifies correctly, by seed.
        only_second: likewise.
    """

    column: Any
    first: Any
    second: Any
    seeds: tuple[int, ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]

    @property
    def p(self) -> tuple[float, ...]:
        """P-value of each seed."""
        return tuple(map(mcnemar, self.only_first, self.only_second))

    @property
    def significant(self) -> int:
        """Number of seeds whose p-value is below 5 %."""
        return sum(p < 1 - LEVEL for p in self.p)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value: under the null, each image that only one net gets right is equally likely either's.

    Args:
        only_first: number of images that only the first net classifies correctly.
        only_second: likewise.
    """
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def correct_answers(
    results: Iterable[Result], out: Path, labels_of: Callable[[str], "Labels | None"]
) -> tuple[dict[str, "Correct"], dict[Path, str]]:
    """Which test images the converged runs classify correctly.

    Args:
        results: the records.
        out: the output folder, which holds the predictions.
        labels_of: test labels of a data set; None if it is not at hand.

    Returns:
        run_id -> one truth value per test image, for runs that have predictions; and file -> what is wrong with it.
    """
    found, bad = {}, {}
    for result in results:
        folder = RunFolder.of(out, result.run)
        path = folder.path / PREDICTIONS
        if result.status == "converged" and path.exists() and (labels := labels_of(result.run.dataset)) is not None:
            try:
                found[folder.run_id] = folder.predictions().correct(labels)
            except (BadRecordError, OSError) as error:
                bad[path] = str(error)
    return found, bad


def pairs(runs: Iterable[Run], axes: tuple[str, str], correct: Mapping[str, "Correct"]) -> list[Pair]:
    """Compare the cells of each column with each other.

    Args:
        runs: of the table, in its order.
        axes: the fields of Run that make its rows and columns.
        correct: from `correct_answers`.
    """
    cells: dict[Any, dict[Any, dict[int, Correct]]] = {}  # by column, row and seed
    for run in runs:
        if (answers := correct.get(run.run_id)) is not None:
            row, column = (getattr(run, axis) for axis in axes)
            cells.setdefault(column, {}).setdefault(row, {})[run.seed] = answers
    return [
        _pair(column, first, second, rows)
        for column, rows in cells.items()
        for first, second in combinations(rows, 2)
        if rows[first].keys() & rows[second].keys()
    ]


def _pair(column: Any, first: Any, second: Any, rows: Mapping[Any, Mapping[int, "Correct"]]) -> Pair:
    ours, theirs = rows[first], rows[second]
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    only_first = tuple(int((ours[seed] & ~theirs[seed]).sum()) for seed in seeds)
    only_second = tuple(int((theirs[seed] & ~ours[seed]).sum()) for seed in seeds)
    return Pair(column, first, second, seeds, only_first, only_second)
