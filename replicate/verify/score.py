"""Compute the table again from predictions and labels, and compare it with the records."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from replicate.experiment import Experiment
from replicate.report.document import document, strict_json
from replicate.report.render import markdown
from replicate.report.table import build
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.predictions import Labels
from replicate.store.result import BadRecordError, Result, status_of
from replicate.store.run_folder import Records, RunFolder

LabelsOf = Callable[[str], Labels]  # test labels of a data set, by the name that a run gives it


def score(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    out: Path,
    labels_of: LabelsOf,
    say: Callable[[str], None],
) -> int:
    """Print the table that follows from predictions and labels, and say whether it is that of the records.

    Args:
        experiment: names the table.
        runs: those of the table.
        records: what `out` holds of them.
        out: the output folder.
        labels_of: test labels of a data set.
        say: prints.

    Returns:
        The exit code: 0 if every record is confirmed and both tables are equal byte for byte, else 1.

    Raises:
        UsageError: the labels of a data set cannot be had, or no run has finished.
    """
    computed, differences = scored(records, out, labels_of)
    recomputed, recorded = (document(build(experiment, runs, found, out)) for found in (computed, records))
    say(markdown(recomputed))
    for line in differences:
        say(escape_control_chars(line))
    tested = sum(result.test_accuracy is not None for result in records.results.values())
    if differences or strict_json(recomputed) != strict_json(recorded):
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
