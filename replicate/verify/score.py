"""Compute the table again from predictions and labels, and compare it with the records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from replicate.store.files import escape_control_chars
from replicate.store.predictions import Labels
from replicate.store.result import BadRecordError, Result, status_of
from replicate.store.run_folder import Records, RunFolder

LabelsOf = Callable[[str], Labels]  # test labels of a data set, by the name that a run gives it


class Table(Protocol):
    """A table of records."""

    def markdown(self) -> str:
        """The table for people."""

    def json(self) -> str:
        """All that it says."""


def score(
    records: Records,
    out: Path,
    labels_of: LabelsOf,
    table_of: Callable[[Records], Table],
    say: Callable[[str], None],
) -> int:
    """Print the table that follows from predictions and labels, and say whether it is that of the records.

    Args:
        records: what `out` holds of the runs.
        out: the output folder.
        labels_of: test labels of a data set.
        table_of: lays out records.
        say: prints.

    Returns:
        The exit code: 0 if every record is confirmed and both tables are equal byte for byte, else 1.

    Raises:
        UsageError: the labels of a data set cannot be had, or no run has finished.
    """
    computed, differences = scored(records, out, labels_of)
    table = table_of(computed)
    say(table.markdown())
    for line in differences:
        say(escape_control_chars(line))
    tested = sum(result.test_accuracy is not None for result in records.results.values())
    if differences or table.json() != table_of(records).json():
        say(f"predictions do not confirm {len(differences)} of {tested} records")
        return 1
    say(f"predictions confirm {tested} of {tested} records; the table from them is the same, byte for byte")
    return 0


def scored(records: Records, out: Path, labels_of: LabelsOf) -> tuple[Records, list[str]]:
    """Score the predictions of all runs that reached their last iteration.

    Returns:
        The records with accuracies and statuses from predictions, where there are any; and one line per record that
        differs from its predictions or has none.
    """
    results, differences = dict(records.results), []
    for name, result in results.items():
        if result.test_accuracy is None:
            continue
        try:
            results[name] = computed = _scored(result, RunFolder.of(out, result.run), labels_of)
        except FileNotFoundError:
            differences.append(f"{name} has no predictions")
        except (BadRecordError, OSError) as error:
            differences.append(f"{name}: {error}")
        else:
            if computed != result:
                differences.append(f"{name}: its record says {_says(result)}, its predictions {_says(computed)}")
    return replace(records, results=results), differences


def _scored(result: Result, folder: RunFolder, labels_of: LabelsOf) -> Result:
    correct = folder.predictions().correct(labels_of(result.run.dataset))
    accuracy = 100 * float(correct.sum()) / len(correct)
    return replace(result, test_accuracy=accuracy, status=status_of(accuracy, result.classes))


def _says(result: Result) -> str:
    return f"{result.test_accuracy} % ({result.status.replace('_', ' ')})"
