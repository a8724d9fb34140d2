"""`replicate ensemble`: the mean of the seeds' class probabilities, next to the single runs."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Column, Table

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.render import to_csv
from replicate.report.text import cell_name, count, terminal_text
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.measurements import Labels, read_predictions
from replicate.store.result import BadRecordError, reason_of
from replicate.store.run_folder import Records, RunFolder

BINS = 15  # of the calibration error, as in Guo et al. 2017
Probabilities = npt.NDArray[np.floating]  # of each class (n, classes)


class Ensemble(NamedTuple):
    """The runs of a cell as members of an ensemble, which predicts by the mean of their probabilities.

    Args:
        cell: name of the cell.
        members: number of runs.
        member_accuracy: mean test accuracy of the members, in %.
        accuracy: test accuracy of the ensemble, in %.
        member_ece: mean expected calibration error of the members, in percentage points.
        ece: expected calibration error of the ensemble, in percentage points.
        disagreement: share of the test images that two members classify differently, in %; mean over their pairs.
    """

    cell: str
    members: int
    member_accuracy: float
    accuracy: float
    member_ece: float
    ece: float
    disagreement: float

    @classmethod
    def of(cls, cell: str, members: Sequence[Probabilities], labels: Labels) -> "Ensemble":
        """Compare the members with their ensemble, given the true classes (n,)."""
        exact = [member.astype(np.float64) for member in members]
        mean = np.mean(exact, axis=0)
        classes = [member.argmax(1) for member in exact]
        return cls(
            cell,
            len(members),
            fmean(100 * float((found == labels).mean()) for found in classes),
            100 * float((mean.argmax(1) == labels).mean()),
            fmean(100 * calibration_error(member, labels) for member in exact),
            100 * calibration_error(mean, labels),
            fmean(100 * float((one != other).mean()) for one, other in combinations(classes, 2)),
        )


def calibration_error(probabilities: Probabilities, labels: Labels) -> float:
    """Return the expected calibration error (Guo et al. 2017), from 0 to 1.

    The images are divided into 15 bins of equal width by the probability of the predicted class. The error is the
    difference between a bin's mean probability and its accuracy, as a mean over the images.

    Args:
        probabilities: of each class (n, classes).
        labels: true classes (n,).
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.ceil(confidence * BINS)  # a bin has its upper end, not its lower
    return sum(abs(float((confidence - right)[bins == number].sum())) for number in np.unique(bins)) / len(labels)


def find_ensembles(
    experiment: Experiment, records: Records, out: Path, labels_of: Callable[[str], Labels]
) -> list[Ensemble]:
    """Make an ensemble of the finished runs of each cell that has at least two with probabilities.

    Args:
        experiment: names the axes of the table.
        records: of the runs, from `out`.
        out: the output folder.
        labels_of: test labels of a data set, by the name that a run gives it.

    Raises:
        UsageError: no cell has two such runs, a file cannot be read, or the test labels are not available.
    """
    cells: dict[Run, list[Probabilities]] = defaultdict(list)
    tested = [result for result in records.results.values() if result.test_accuracy is not None]
    for result in tested:
        folder = RunFolder.of(out, result.run)
        try:
            predictions = read_predictions(folder)
            predictions.correct(labels_of(result.run.dataset))  # raises for other labels
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            raise UsageError(f"{result.run.run_id}: {reason_of(error)}") from None
        if predictions.probabilities is not None:
            cells[replace(result.run, seed=0)].append(predictions.probabilities)
    if all(len(members) < 2 for members in cells.values()):
        stored = sum(map(len, cells.values()))
        problem = f"{count(stored, 'run')} of {len(tested)} in {out} {'has' if stored == 1 else 'have'} probabilities"
        raise UsageError(
            f"{problem}, but an ensemble needs two seeds of a cell; carry out several seeds with: replicate matrix "
            "FILE --save-probabilities"
        )
    axes = (experiment.table.rows, experiment.table.columns)
    return [
        Ensemble.of(cell_name(*(getattr(run, axis) for axis in axes)), members, labels_of(run.dataset))
        for run, members in cells.items() if len(members) > 1
    ]  # fmt: skip


def print_ensembles(found: Sequence[Ensemble], console: Console) -> None:
    """Print a row for each ensemble."""
    table = Table(Column("", no_wrap=True), "runs", "accuracy\nof a run", "of all\ntogether", "ECE\nof a run")
    for name in ("of all\ntogether", "disagree-\nment"):
        table.add_column(name)
    for one in found:
        numbers = (f"{number:.2f}" for number in one[2:])
        table.add_row(terminal_text(one.cell), str(one.members), *numbers)
    console.print(table)
    console.print(
        "In % of the test images. ECE: expected calibration error. Disagreement: images that two runs classify "
        "differently."
    )


def write_ensembles(found: Sequence[Ensemble], path: Path) -> Path:
    """Write a row for each ensemble, with the fields of Ensemble as columns."""
    return write_atomically(path, to_csv([one._asdict() for one in found]))
