"""What to do: the runs that a command works on, the data at hand, the unfinished runs, and their order."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path

from replicate import provenance
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher, Progress, tail
from replicate.matrix.resources import Deadline
from replicate.names import BATCH_NORM
from replicate.options import OUT, Selection
from replicate.plugins import registered
from replicate.run import CAPTURED, Run
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect
from replicate.yamlfile import assignments

LAST_ROUNDS = 2  # on table 3 and 1,000 slots one more gains nothing (experiments/scale.py)
Retried = Mapping[str, Result] | None  # by run_id


@dataclass(frozen=True, slots=True)
class Selected:
    """The runs that a command works on."""

    experiment: Experiment
    runs: tuple[Run, ...]
    out: Path

    @classmethod
    def load(cls, file: Path, selection: Selection, shard: str | None = None) -> "Selected":
        """Load an experiment file, and narrow it by `--set`, `--only` and `--shard`."""
        experiment = Experiment.load(file).with_settings(assignments("--set", selection.set))
        only = assignments("--only", selection.only)
        runs = experiment.runs(only)
        if "seed" in only:
            experiment = replace(experiment, table=replace(experiment.table, more_seeds=()))
        part = runs if shard is None else shard_of(shard, runs)
        return cls(experiment, part, selection.out or OUT / experiment.name)

    @property
    def records(self) -> Records:
        """The records of the runs in the output folder, and of those with more seeds that the table has."""
        return collect(self.out, self.runs, self.experiment.more_runs(self.runs))

    def check_single(self) -> None:
        """Check that there is only one run.

        Raises:
            UsageError: there are more; the message names the axes to fix.
        """
        if len(self.runs) > 1:
            free = [axis for axis in self.experiment.grid if len({getattr(run, axis) for run in self.runs}) > 1]
            axes = " ".join(f"{axis}=…" for axis in free)
            raise UsageError(f"{self.experiment.name} has {len(self.runs)} runs; fix its axes to get one: --set {axes}")


@dataclass(frozen=True, slots=True)
class Survey:
    """What the survey found on this machine.

    Args:
        gpus: number of NVIDIA GPUs that torch sees.
        fingerprints: data set -> its fingerprint.
        shapes: data set -> channels, height and width of its images.
        train_images: data set -> number of its training images.
        test_images: data set -> number of its test images.
        sources: digest of the code that the runs will run, see `provenance.sources`.
    """

    gpus: int
    fingerprints: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    train_images: Mapping[str, int]
    test_images: Mapping[str, int]
    sources: str


class TimeUpError(Exception):
    """The time limit was reached before a run could start."""


def survey(
    launcher: LocalLauncher, runs: Sequence[Run], data_dir: Path, display: Display, deadline: Deadline
) -> Survey:
    """Let a process that may load torch look for the devices and the data, and download these if they are missing.

    Raises:
        UsageError: unknown or unreadable data, images that a run's model does not take, a plugin that fails, or the
            code was changed since this command started.
        TimeUpError: it takes too long.
    """
    names = sorted({run.dataset for run in runs})
    display.note(f"looking for devices and data: {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        arguments = (names, data_dir, registered())
        launcher.start("survey", "replicate.training.environment:survey", arguments, os.environ, log)
        while True:
            if deadline.expired():
                display.note("time limit reached; the same command continues")
                raise TimeUpError
            for event in launcher.events(timeout=1.0):
                if isinstance(event, Progress):
                    display.reading(*event.values)
                elif isinstance(event.value, UsageError):
                    raise event.value
                elif isinstance(event.value, Exception):
                    raise RuntimeError(f"the process that reads the data failed ({event.value})\n{tail(log)}")
                elif event.value["sources"] != provenance.code().sources:
                    raise UsageError(f"{provenance.PACKAGE} was changed while the command started; give it again")
                else:
                    found = Survey(**event.value)
                    for run in runs:
                        run.check_images(found.shapes[run.dataset])
                    return found


def unfinished_runs(
    out: Path, runs: Sequence[Run], fingerprints: Mapping[str, str], display: Display, retried: Retried = None
) -> list[Run]:
    """Choose the runs that are to be carried out.

    A record that cannot be read counts as none, and the display shows a note.

    Args:
        out: the output folder.
        runs: to choose from.
        fingerprints: data set -> fingerprint of the data at hand.
        display: shows the notes.
        retried: see `unfinished`.

    Raises:
        UsageError: the output folder holds a finished run on other data.
    """
    records = collect(out, runs)
    check_data(records.results.values(), fingerprints, "give another --out, or the data it was run on")
    for path, reason in records.bad.items():
        display.note(f"{path}: {reason}; the run is done again, and the file set aside")
    return unfinished(runs, records.results, retried)


def check_data(results: Iterable[Result], fingerprints: Mapping[str, str], hint: str) -> None:
    """Check that finished runs were run on the data at hand.

    Args:
        results: of the runs.
        fingerprints: data set -> fingerprint of the data at hand.
        hint: what the user can do, for the message.

    Raises:
        UsageError: names both fingerprints.
    """
    for result in results:
        run, here = result.run, fingerprints[result.run.dataset]
        if result.final and result.fingerprint != here:
            recorded = f"{run.run_id} was run on data with fingerprint {result.fingerprint}"
            raise UsageError(f"{recorded}, but {run.dataset} here has {here}; {hint}")


def unfinished(runs: Sequence[Run], results: Mapping[str, Result | None], retried: Retried = None) -> list[Run]:
    """Choose the runs that are to be carried out, by their records.

    Args:
        runs: to choose from.
        results: run_id -> record.
        retried: run_id -> record of an error that is to be retried; other errors are not. None: all are.
    """
    failed = {name: result for name, result in results.items() if result is not None and not result.final}
    again = {name for name, result in failed.items() if retried is None or result == retried.get(name)}
    return [run for run in runs if results.get(run.run_id) is None or run.run_id in again]


def check_shares(runs: Sequence[Run], test_images: Mapping[str, int], devices: int) -> None:
    """Check that each device of a run gets a share of every batch.

    Args:
        runs: to be carried out.
        test_images: data set -> number of its test images, as far as it is known.
        devices: that a run takes.

    Raises:
        UsageError: a run has too few images for so many devices, or batch normalisation, which needs whole batches.
    """
    for run in runs:
        if devices > 1 and run.model in BATCH_NORM:
            problem = f"--devices-per-run {devices} divides batches, but {run.model} normalises whole ones"
            raise UsageError(f"{problem}; leave it out")
        n = min(run.batch_size, run.validation or test_images.get(run.dataset, run.batch_size))
        if n < devices:
            few = "images a batch" if n == run.batch_size else "images to test on"
            raise UsageError(f"--devices-per-run {devices} is too many: {run.run_id} has {n} {few}; give 1 to {n}")


def check_step(runs: Sequence[Run], step: str) -> None:
    """Check that the training-step backend can carry out the runs.

    Raises:
        UsageError: it is a CUDA graph, and a run has an optimiser that a graph cannot replay.
    """
    for run in runs:
        if step not in ("auto", "eager") and run.optimizer not in CAPTURED:
            problem = f"--step {step} is for the optimiser {' and '.join(CAPTURED)}"
            raise UsageError(f"{problem}, and {run.run_id} has {run.optimizer}; choose from: auto, eager")


def shard_of(text: str, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Choose one part of the runs. It depends only on the runs, so every machine cuts them in the same way.

    The runs are sorted by cost (net and length of training, then activation, since maxout costs twice as much), then by
    cell, then by seed. They are dealt out in turn, so the parts differ by at most one in their number of runs, of runs
    of each cost, and of runs of each cell. In the order of the experiment file, with five activations and five parts,
    one part would get all runs with maxout.

    Args:
        text: such as `2/8`, the second of eight parts.
        runs: all of them.

    Returns:
        The runs of that part, in the order given.

    Raises:
        UsageError: no such part, or more parts than runs.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, flags=re.ASCII)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts <= len(runs):
        problem = f"--shard {text!r} is not a part of {len(runs)} runs"
        raise UsageError(f"{problem}; give such as 2/8, the second of eight, and {len(runs)} parts at most")
    order = attrgetter("dataset", "model", "width", "batch_size", "iterations", "activation", "init", "seed", "run_id")
    mine = set(sorted(runs, key=order)[part - 1 :: parts])
    return tuple(run for run in runs if run in mine)


def long_ones_first(runs: Sequence[Run], slots: int) -> list[Run]:
    """Move the long runs of the last rounds to the front of these rounds, so that short runs fill the gaps at the end.

    All but the last LAST_ROUNDS rounds keep their order: the whole table fills before any cell is refined.

    Args:
        runs: in the order in which they would start.
        slots: runs at a time.
    """
    begin = max(0, len(runs) - LAST_ROUNDS * slots)
    return [*runs[:begin], *sorted(runs[begin:], key=_work, reverse=True)]


def _work(run: Run) -> float:
    """Estimate how long a run takes compared with others: two maxout pieces are twice the convolutions."""
    return run.iterations * run.batch_size * run.width**2 * (2 if run.activation == "maxout" else 1)
