"""The files of a run, `OUT/runs/<run_id>/`: their names, and how they are read."""

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from replicate.run import Run
from replicate.store import curve, layers
from replicate.store.curve import Point
from replicate.store.files import read_bytes
from replicate.store.layers import Snapshot
from replicate.store.result import BadRecordError, Result, read_result, reason_of

if TYPE_CHECKING:
    from replicate.store.predictions import Predictions

RESULT, CURVE, LAYERS, PREDICTIONS = "result.json", "curve.csv", "layers.json", "predictions.npz"
CHECKPOINT, LOG = "checkpoint.pt", "log.txt"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Names and reads the files of one run; only a `Lease` writes them.

    Args:
        path: the folder, which need not exist.
    """

    path: Path

    @classmethod
    def of(cls, out: Path, run: Run) -> "RunFolder":
        """The folder of a run in an output folder."""
        return cls(out / "runs" / run.run_id)

    @property
    def run_id(self) -> str:
        """The run_id, which names the folder."""
        return self.path.name

    @property
    def result(self) -> Path:
        """The record."""
        return self.path / RESULT

    @property
    def checkpoint(self) -> Path:
        """The latest state of a training, to resume from."""
        return self.path / CHECKPOINT

    @property
    def log(self) -> Path:
        """What the process of the run prints."""
        return self.path / LOG

    def record(self) -> Result | None:
        """Read the record; None if there is none that can be read."""
        with contextlib.suppress(BadRecordError, OSError):
            return read_result(self.result)
        return None

    def curve_bytes(self) -> bytes | None:
        """Content of the curve; None if there is none that can be read."""
        try:
            return read_bytes(self.path / CURVE, curve.MAX_BYTES)
        except OSError:
            return None

    def points(self, *metrics: str) -> dict[str, list[Point]]:
        """Read columns of the curve: metric -> iteration, epoch and value of each whole row."""
        return curve.read_points(self.curve_bytes() or b"", metrics)

    def snapshots(self, result: Result) -> tuple[Snapshot, ...]:
        """Read the measurements of the layers.

        Args:
            result: the record of the run; the file must be of the same run and the same data.

        Raises:
            BadRecordError: the message names the file and what is wrong.
            FileNotFoundError: the run has none.
            OSError: it is not a plain file of the right size.
        """
        path = self.path / LAYERS
        try:
            return layers.parse_layers(read_bytes(path, layers.MAX_BYTES), result.run.run_id, result.fingerprint)
        except BadRecordError as error:
            raise BadRecordError(error.reason, path) from None

    def predictions(self) -> "Predictions":
        """Read the predictions.

        Raises:
            BadRecordError: the message names the file and what is wrong.
            FileNotFoundError: the run has none.
            OSError: it is not a plain file of the right size.
        """
        from replicate.store.predictions import MAX_BYTES, parse_predictions  # NumPy would slow `status` down

        path = self.path / PREDICTIONS
        try:
            return parse_predictions(read_bytes(path, MAX_BYTES))
        except BadRecordError as error:
            raise BadRecordError(error.reason, path) from None


@dataclass(frozen=True, slots=True)
class Records:
    """The records of an output folder.

    Args:
        results: run_id -> Result, in the order asked for.
        bad: records that could not be read, each with its reason.
        others: number of records in the folder that were not asked for.
    """

    results: Mapping[str, Result]
    bad: Mapping[Path, str]
    others: int


def collect(out: Path, runs: Iterable[Run]) -> Records:
    """Read the records of these runs from an output folder."""
    results, bad = {}, {}
    folders = {run.run_id: RunFolder.of(out, run) for run in runs}
    for run_id, folder in folders.items():
        try:
            results[run_id] = read_result(folder.result)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.result] = reason_of(error)
    return Records(results, bad, count_others(out, folders))


def recorded(out: Path) -> Iterator[RunFolder]:
    """The folders of an output folder that hold a record, sorted by name."""
    return (RunFolder(path.parent) for path in sorted(out.glob(f"runs/*/{RESULT}")))


def count_others(out: Path, run_ids: Container[str]) -> int:
    """Count the records in an output folder that are of none of these runs."""
    return sum(folder.path.name not in run_ids for folder in recorded(out))
