"""What is left to do: the data at hand, the records that are there, and the runs without one."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicate.errors import UsageError
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher, death, tail
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import collect

LAST_ROUNDS = 2  # on table 3 and 1,000 slots one more gains nothing (experiments/scale.py)
SURVEY = "replicate.training.survey:survey"


@dataclass(frozen=True, slots=True)
class Survey:
    """What the survey found on this machine.

    Args:
        gpus: number of NVIDIA GPUs that torch sees.
        mps: whether torch can use an Apple GPU.
        fingerprints: of each data set.
        test_images: number of each data set's.
    """

    gpus: int
    mps: bool
    fingerprints: Mapping[str, str]
    test_images: Mapping[str, int]


def survey(launcher: LocalLauncher, runs: Sequence[Run], data_dir: Path, display: Display) -> Survey:
    """Ask a process that may load torch for the devices and the data.

    Raises:
        UsageError: unknown or unreadable data.
    """
    names = sorted({run.dataset for run in runs})
    display.note(f"looking for devices and data: {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        launcher.start("survey", SURVEY, (names, data_dir), os.environ, log)
        while True:
            for event in launcher.events(timeout=1.0):
                if event.kind == "progress":
                    display.reading(*event.value)
                elif event.kind == "done":
                    return Survey(**event.value)
                elif event.kind == "failed":
                    raise event.value
                else:
                    raise RuntimeError(f"the process that reads the data died ({death(event.value)})\n{tail(log)}")


def left_to_do(
    out: Path,
    runs: Sequence[Run],
    fingerprints: Mapping[str, str],
    display: Display,
    retried: Mapping[str, Result] | None = None,
) -> list[Run]:
    """Choose the runs that are left; a record that cannot be read counts as none, and the display says so.

    Args:
        out: the output folder.
        runs: to choose from.
        fingerprints: of the data at hand, by name.
        display: reports bad records.
        retried: see `is_left`.

    Raises:
        UsageError: the output folder holds a finished run on other data.
    """
    records = collect(out, runs)
    for run_id, result in records.results.items():
        here = fingerprints[result.run.dataset]
        if result.final and result.fingerprint != here:
            raise UsageError(
                f"{run_id} in {out} was run on data with fingerprint {result.fingerprint}, but {result.run.dataset} "
                f"here has {here}; give another --out, or the data it was run on"
            )
    for path, reason in records.bad.items():
        display.note(f"{path}: {reason}; the run is done again, and the file set aside")
    return [run for run in runs if is_left(records.results.get(run.run_id), retried)]


def check_shares(runs: Sequence[Run], test_images: Mapping[str, int], devices: int) -> None:
    """Check that each device of a run has a part of every batch.

    Args:
        runs: to be carried out.
        test_images: number of each data set's.
        devices: that a run takes.

    Raises:
        UsageError: a run has too few images for so many.
    """
    for run in runs:
        tested = test_images[run.dataset]
        most = min(run.batch_size, tested)
        if most < devices:
            few = f"{run.batch_size} images a batch" if run.batch_size == most else f"{tested} test images"
            raise UsageError(f"--devices-per-run {devices} is more than {run.run_id} has {few}; give 1 to {most}")


def is_left(result: Result | None, retried: Mapping[str, Result] | None = None) -> bool:
    """Whether a run is still to be done.

    Args:
        result: its record; None: there is none.
        retried: by run_id, the records of errors that are to be retried; other errors are not. None: all are.
    """
    if result is None or result.final:
        return result is None
    return retried is None or result == retried.get(result.run.run_id)


def long_ones_first(runs: Sequence[Run], slots: int) -> list[Run]:
    """Put the long runs of the last rounds first, so that short ones fill up what is left at the end.

    All but the last LAST_ROUNDS rounds keep their order: the whole table fills before any cell is refined.

    Args:
        runs: in the order in which they would start.
        slots: runs at a time.
    """
    begin = max(0, len(runs) - LAST_ROUNDS * slots)
    return [*runs[:begin], *sorted(runs[begin:], key=_work, reverse=True)]


def _work(run: Run) -> float:
    """Tell how long a run takes, compared with others: two maxout pieces are twice the convolutions."""
    return run.iterations * run.batch_size * run.width**2 * (2 if run.activation == "maxout" else 1)
