"""`replicate ensemble`: the mean of the seeds' class probabilities, next to the single runs."""

from collections.abc import Sequence
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
from replicate.report.document import document
from replicate.report.render import to_csv
from replicate.report.text import count, terminal_text
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.measurements import Labels, LabelsOf, Predictions, read_predictions
from replicate.store.result import BadRecordError, Result, reason_of
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
    def of(cls, cell: str, members: Sequence[Predictions], labels: Labels) -> "Ensemble":
        """Compare the members, whose probabilities all have the same shape, with their ensemble; labels (n,)."""
        exact = [np.asarray(member.probabilities, dtype=np.float64) for member in members]
        mean = np.mean(exact, axis=0)
        return cls(
            cell,
            len(members),
            fmean(100 * float(member.correct(labels).mean()) for member in members),
            100 * float((mean.argmax(1) == labels).mean()),
            fmean(100 * calibration_error(member, labels) for member in exact),
            100 * calibration_error(mean, labels),
            fmean(100 * float((one.classes != other.classes).mean()) for one, other in combinations(members, 2)),
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
    experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path, labels_of: LabelsOf
) -> list[Ensemble]:
    """Make an ensemble of the converged runs of each cell that has at least two with probabilities.

    Args:
        experiment: names the axes of the table.
        runs: of the table.
        records: of the runs, from `out`.
        out: the output folder.
        labels_of: see `store.measurements`.

    Raises:
        UsageError: no cell has two such runs, a file cannot be read, the test labels are not available, or the records
            make no table.
    """
    found, stored = [], 0
    for cell in document(experiment, runs, records)["cells"]:
        results = [records.results[run_id] for run_id in cell["run_ids"]]
        read = (_read(result, out, labels_of) for result in results if result.status == "converged")
        members = [predictions for predictions in read if predictions is not None]
        stored += len(members)
        if len(members) > 1:
            found.append(
                Ensemble.of(cell["name"], members, labels_of(results[0].run.dataset, results[0].run.validation))
            )
    if not found:
        raise UsageError(
            f"no cell has two converged runs with probabilities ({count(stored, 'run')} in {out} in all); carry out "
            "several seeds with --save-probabilities, in another --out if they have finished without"
        )
    return found


def _read(result: Result, out: Path, labels_of: LabelsOf) -> Predictions | None:
    """Read the predictions of a run; None if it has no probabilities."""
    try:
        predictions = read_predictions(RunFolder.of(out, result.run))
        if predictions.probabilities is None:
            return None
        if predictions.probabilities.shape[1] != result.classes:
            raise BadRecordError(f"its probabilities are not of {result.classes} classes")
        predictions.correct(labels_of(result.run.dataset, result.run.validation))  # raises for other labels
    except FileNotFoundError:
        return None
    except (BadRecordError, OSError) as error:
        raise UsageError(f"{result.run.run_id}: {reason_of(error)}") from None
    return predictions


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
