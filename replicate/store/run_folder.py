"""The files of a run, `OUT/runs/<run_id>/`: their names; and the records of an output folder."""

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from replicate.run import Run
from replicate.store.files import MAX_BYTES, read_bytes
from replicate.store.result import BadRecordError, Result, read_result, reason_of

RESULT, CURVE, LAYERS, PREDICTIONS = "result.json", "curve.csv", "layers.json", "predictions.npz"
CHECKPOINT, LOG = "checkpoint.pt", "log.txt"
LEASE, OWNER = "claim", "owner.json"  # the lease is `claim/TOKEN/owner.json`; earlier versions look for it too


class RunFolder:
    """Names the files of one run; only a `Lease` writes them.

    Args:
        path: the folder, which need not exist.

    Attributes:
        path: as above.
        run_id: names the folder.
        result: the record.
        checkpoint: the latest state of a training, to resume from.
        log: what the process of the run prints.
        lease: folder of the lease.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run_id = path, path.name
        self.result, self.checkpoint = path / RESULT, path / CHECKPOINT
        self.log, self.lease = path / LOG, path / LEASE

    @classmethod
    def of(cls, out: Path, run: Run) -> "RunFolder":
        """The folder of a run in an output folder."""
        return cls(out / "runs" / run.run_id)

    def read(self, name: str, max_bytes: int = MAX_BYTES) -> bytes:
        """Read a file of the run, see `read_bytes`. No link below the output folder is followed."""
        return read_bytes(self.path / name, max_bytes, below=self.path.parent.parent)

    def record(self) -> Result | None:
        """Read the record; None if there is none that can be read."""
        with contextlib.suppress(BadRecordError, OSError):
            return read_result(self.result)
        return None

    def curve_bytes(self) -> bytes | None:
        """Content of the curve; None if there is none that can be read."""
        with contextlib.suppress(OSError):
            return self.read(CURVE)
        return None


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

    def with_their_runs(self, runs: Iterable[Run]) -> tuple[Run, ...]:
        """These runs, and those of the records that are not among them."""
        return tuple(dict.fromkeys([*runs, *(result.run for result in self.results.values())]))


def collect(out: Path, runs: Iterable[Run], more: Iterable[Run] = ()) -> Records:
    """Read the records of these runs from an output folder, and those of `more` that there are."""
    folders = {run.run_id: RunFolder.of(out, run) for run in (*runs, *more)}
    return Records(*read_records(folders.values()), count_others(out, folders))


def read_records(folders: Iterable[RunFolder]) -> tuple[dict[str, Result], dict[Path, str]]:
    """Read the records of these folders: run_id -> Result, and those that could not be read, each with its reason."""
    results, bad = {}, {}
    for folder in folders:
        try:
            results[folder.run_id] = read_result(folder.result)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[folder.result] = reason_of(error)
    return results, bad


def recorded(out: Path) -> Iterator[RunFolder]:
    """The folders of an output folder that hold a record, sorted by name."""
    return (RunFolder(path.parent) for path in sorted(out.glob(f"runs/*/{RESULT}")))


def count_others(out: Path, run_ids: Container[str]) -> int:
    """Count the records in an output folder that belong to none of these runs."""
    return sum(folder.run_id not in run_ids for folder in recorded(out))
