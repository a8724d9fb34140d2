"""McNemar's test: do two trained nets differ in the test images that they classify correctly?"""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.special import bdtr

from replicate.report.statistics import LEVEL
from replicate.run import Run
from replicate.store.result import BadRecordError, Result, reason_of
from replicate.store.run_folder import PREDICTIONS, RunFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from replicate.store.predictions import Labels

    Correct = npt.NDArray[np.bool_]


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
                bad[path] = reason_of(error)
    return found, bad


def compare(runs: Iterable[Run], axes: tuple[str, str], correct: Mapping[str, "Correct"]) -> list[dict[str, Any]]:
    """Compare the cells of each column with each other, seed by seed, on the same test images.

    Args:
        runs: of the table, in its order.
        axes: the fields of Run that make its rows and columns.
        correct: from `correct_answers`.

    Returns:
        One mapping per pair of cells: `column`, value of the table's second axis; `first`, `second`, the rows of the
        two; `seeds`, which converged in both; and, for each seed, `only_first` and `only_second`, the number of test
        images that only this net classifies correctly, and `p`, the p-value. `significant`: number of seeds whose
        p-value is below 5 %.
    """
    cells: dict[Any, dict[Any, dict[int, Correct]]] = {}  # by column, row and seed
    for run in runs:
        if (answers := correct.get(run.run_id)) is not None:
            row, column = (getattr(run, axis) for axis in axes)
            cells.setdefault(column, {}).setdefault(row, {})[run.seed] = answers
    return [
        {"column": column, "first": first, "second": second, **_test(rows[first], rows[second])}
        for column, rows in cells.items()
        for first, second in combinations(rows, 2)
        if rows[first].keys() & rows[second].keys()
    ]


def _test(first: Mapping[int, "Correct"], second: Mapping[int, "Correct"]) -> dict[str, Any]:
    seeds = sorted(first.keys() & second.keys())
    only_first = [int((first[seed] & ~second[seed]).sum()) for seed in seeds]
    only_second = [int((second[seed] & ~first[seed]).sum()) for seed in seeds]
    p = list(map(mcnemar, only_first, only_second))
    significant = sum(value < 1 - LEVEL for value in p)
    return {"seeds": seeds, "only_first": only_first, "only_second": only_second, "p": p, "significant": significant}
