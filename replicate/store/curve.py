"""The schema of `curve.csv`: one row per evaluation of the test set."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

# Accuracies are in %, losses in nats. The training columns are means since the previous row, with dropout and
# augmentation; the test columns are of the plain test images without dropout.
COLUMNS = ("iteration", "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
MAX_BYTES = 64_000_000  # of a curve; one of the paper's protocol has 20,000

Row = dict[str, float]
Point = tuple[int, float, float]  # iteration, epoch, value


def to_csv(rows: Iterable[Mapping[str, float]]) -> str:
    """The content of `curve.csv`.

    Args:
        rows: each with the keys COLUMNS, in this order.
    """
    lines = [",".join(COLUMNS), *(",".join(f"{value:.10g}" for value in row.values()) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def read_points(content: bytes, metrics: Sequence[str]) -> dict[str, list[Point]]:
    """Read columns of a `curve.csv`, which may be empty, cut off or something else.

    Returns:
        metric -> iteration, epoch and value of each whole row.
    """
    found: dict[str, list[Point]] = {metric: [] for metric in metrics}
    try:
        lines = list(csv.reader(io.StringIO(content.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return found
    places = {name: place for place, name in enumerate(lines[0])} if lines else {}
    for line in lines[1:]:
        for metric in metrics:
            try:
                iteration, epoch, value = (float(line[places[name]]) for name in ("iteration", "epoch", metric))
            except (KeyError, IndexError, ValueError):
                continue  # a row that was cut off
            if all(map(math.isfinite, (iteration, epoch, value))):
                found[metric].append((int(iteration), epoch, value))
    return found
