"""`replicate score`: recomputes the table from predictions and labels, and compares it with the records."""

from dataclasses import replace
from pathlib import Path

from replicate.experiment import Experiment
from replicate.report.document import document, strict_json
from replicate.report.render import markdown
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.measurements import LabelsOf, read_predictions
from replicate.store.result import BadRecordError, Result, status_of
from replicate.store.run_folder import Records, RunFolder


def score(experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path, labels_of: LabelsOf) -> int:
    """Print the table computed from predictions and labels, and whether it equals the table of the records.

    Only runs that reached their last iteration have predictions. Each record that differs from its predictions, or has
    none, is printed.

    Args:
        experiment: names the table.
        runs: of the table.
        records: of the runs, from `out`.
        out: the output folder.
        labels_of: see `store.measurements`.

    Returns:
        The exit code: 0 if every record is confirmed and both tables are equal byte for byte, else 1.

    Raises:
        UsageError: the labels of a data set are not available.
    """
    results, differences = dict(records.results), []
    tested = [result for result in records.results.values() if result.test_accuracy is not None]
    for result in tested:
        name = result.run.run_id
        try:
            correct = read_predictions(RunFolder.of(out, result.run)).correct(
                labels_of(result.run.dataset, result.run.validation)
            )
        except FileNotFoundError:
            differences.append(f"{name} has no predictions")
        except (BadRecordError, OSError) as error:
            differences.append(f"{name}: {error}")
        else:
            accuracy = 100 * float(correct.sum()) / len(correct)
            results[name] = replace(result, test_accuracy=accuracy, status=status_of(accuracy, result.classes))
            if results[name] != result:
                differences.append(f"{name}: its record says {_says(result)}, its predictions {_says(results[name])}")
    found = (replace(records, results=results), records)
    recomputed, recorded = (document(experiment, runs, one) for one in found)
    print(markdown(recomputed), *map(escape_control_chars, differences), sep="\n")
    if differences or strict_json(recomputed) != strict_json(recorded):
        print(f"predictions do not confirm {len(differences)} of {len(tested)} records")
        return 1
    print(f"predictions confirm {len(tested)} of {len(tested)} records; the table from them is the same, byte for byte")
    return 0


def _says(result: Result) -> str:
    return f"{result.test_accuracy} % ({result.status.replace('_', ' ')})"
