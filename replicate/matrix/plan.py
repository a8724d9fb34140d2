"""What is left to do: the data at hand, the records that are there, and the runs without one."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from replicate.errors import UsageError
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher, death, tail
from replicate.results import Records, collect
from replicate.run import Run

SURVEY = "replicate.training.survey:survey"


def survey(
    launcher: LocalLauncher, runs: Sequence[Run], data_dir: Path, display: Display
) -> tuple[int, dict[str, str]]:
    """Ask a process that may load torch for the number of GPUs, and for the fingerprint of each data set.

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
                    gpus, fingerprints = event.value
                    return gpus, fingerprints
                elif event.kind == "failed":
                    raise event.value
                else:
                    raise RuntimeError(f"the process that reads the data died ({death(event.value)})\n{tail(log)}")


def left_to_do(out: Path, runs: Sequence[Run], fingerprints: Mapping[str, str], display: Display) -> list[Run]:
    """Choose the runs without a finished record; records that are no whole results are set aside, and said so.

    Raises:
        UsageError: the output folder cannot be written, or it holds a finished run on other data.
    """
    check_writable(out)
    records = collect(out, runs)
    for run_id, result in records.results.items():
        here = fingerprints[result.run.dataset]
        if result.status != "error" and result.fingerprint != here:
            raise UsageError(
                f"{run_id} in {out} was run on data with fingerprint {result.fingerprint}, but {result.run.dataset} "
                f"here has {here}; give another --out, or the data it was run on"
            )
    for path, reason in records.bad.items():
        display.note(f"{reason}; set aside as {_set_aside(path)}, and run again")
    return [run for run in runs if not _finished(records, run)]


def _finished(records: Records, run: Run) -> bool:
    result = records.results.get(run.run_id)
    return result is not None and result.status != "error"


def check_writable(out: Path) -> None:
    """Make the output folder.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out / "runs"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {out}: {error.strerror}; give another --out") from None


def _set_aside(path: Path) -> str:
    number = 1
    while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise UsageError(f"{path} is no whole result and cannot be set aside: {error.strerror}") from None
    return aside.name


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold an output folder for this process: two matrices on one would train the same runs.

    The lock falls with the process, however it ends.

    Raises:
        UsageError: another process holds it.
    """
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another replicate works in {out}; wait for it, or give another --out") from None
        except OSError:  # a file system without locks
            pass
        yield
