"""The state of a matrix as plain data: what its output folder contains, how far its cells are, and the time left."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from replicate.experiment import Experiment
from replicate.report.cell import Tally
from replicate.run import Run
from replicate.store.owner import LeaseInfo, LeaseWatch
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, read_records

SAMPLES = 240  # that a speed is measured over: about two minutes of a run that reports twice a second


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running run is.

    Args:
        iterations: of the run.
        iteration: done so far.
        accuracy: the latest test accuracy in %; None before the first.
        device: where it runs, as text.
        holder: the process that runs it, as text.
        elsewhere: whether another command runs it.
        stage: what it does before its first iteration; empty from then on.
    """

    iterations: int
    iteration: int = 0
    accuracy: float | None = None
    device: str = ""
    holder: str = ""
    elsewhere: bool = False
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What an output folder contains at some moment.

    Args:
        results: run_id -> record; None for an error that left no record.
        progress: run_id -> how far it is, for the runs that a living process holds a lease of.
        bad: number of records that cannot be read.
        expired: run_id -> lease, for the leases whose owners are dead or that cannot be read.
    """

    results: Mapping[str, Result | None]
    progress: Mapping[str, Progress]
    bad: int = 0
    expired: Mapping[str, LeaseInfo] = field(default_factory=dict)


class RunMonitor:
    """Reads the state of runs from their folders, again and again. A final record is read once.

    Args:
        out: the output folder; it need not exist.
        runs: to watch; the attribute `runs` maps run_id to run.
    """

    def __init__(self, out: Path, runs: Sequence[Run]) -> None:
        self.runs = {run.run_id: run for run in runs}
        self._folders = [RunFolder(out / "runs" / name) for name in self.runs]
        self._watch = LeaseWatch()
        self._final: dict[str, Result] = {}

    def look(self) -> Observation:
        """Read the lease and the record of every run."""
        progress: dict[str, Progress] = {}
        expired: dict[str, LeaseInfo] = {}
        folders = [folder for folder in self._folders if folder.run_id not in self._final]
        # The leases before the records: a run that ends between the two must not seem to be waiting.
        for folder in folders:
            name, info = folder.run_id, self._watch.look(folder)
            if info is not None and (info.expired or info.problem):
                expired[name] = info
            elif info is not None and (owner := info.owner) is not None:
                most = self.runs[name].iterations
                iteration = min(owner.iteration, most)  # the file may contain any number
                where = (owner.device, info.holder)
                progress[name] = Progress(most, iteration, owner.test_accuracy, *where, stage=owner.stage)
        found, bad = read_records(folders)
        results = self._final | found
        self._final = {name: result for name, result in results.items() if result.final}
        return Observation(results, progress, len(bad), expired)


class SpeedMeter:
    """Measures the speed of runs from how far they are at different times.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[str, deque[tuple[float, int]]] = {}

    def update(self, progress: Mapping[str, Progress]) -> dict[str, float]:
        """Note how far all running runs are now.

        A run that has not begun to train is left out: a resumed one is at 0 only until it has read its checkpoint.

        Returns:
            run_id -> iterations per second, for the runs whose progress has been seen to change.
        """
        now, speeds = self._clock(), {}
        training = [name for name, one in progress.items() if not one.stage]
        self._samples = {name: self._samples.get(name, deque(maxlen=SAMPLES)) for name in training}
        for name, samples in self._samples.items():
            if not samples or progress[name].iteration > samples[-1][1]:
                samples.append((now, progress[name].iteration))
            (begin, first), (end, last) = samples[0], samples[-1]
            if end > begin:
                speeds[name] = (last - first) / (end - begin)
        return speeds


@dataclass(frozen=True, slots=True, kw_only=True)
class CellProgress(Tally):
    """How far the runs of a cell, or all runs, are.

    Args:
        here: progress, from 0 to 1, of each run that this command runs.
        elsewhere: progress, from 0 to 1, of each run that another command runs.
    """

    here: tuple[float, ...] = ()
    elsewhere: tuple[float, ...] = ()

    @property
    def running(self) -> int:
        """Number of running runs, here and elsewhere."""
        return len(self.here) + len(self.elsewhere)

    @property
    def waiting(self) -> int:
        """Number of runs that are neither running nor over."""
        return self.missing - self.running


@dataclass(frozen=True)
class MatrixState:
    """The state of a matrix.

    Args:
        experiment: names the fields that make rows and columns.
        runs: run_id -> run, of the whole matrix.
        seen: the records, and how far the running runs are.
        speeds: run_id -> measured iterations per second, where known.
    """

    experiment: Experiment
    runs: Mapping[str, Run]
    seen: Observation
    speeds: Mapping[str, float]

    @cached_property
    def running(self) -> dict[str, Progress]:
        """run_id -> how far it is. After a final record a run is over, while one with an error may be tried again."""
        final = {name for name, result in self.seen.results.items() if result is not None and result.final}
        names = self.seen.progress.keys() - final
        return {name: self.seen.progress[name] for name in self.runs if name in names}

    @cached_property
    def ended(self) -> dict[str, Result | None]:
        """run_id -> record, or None, of the runs that are over."""
        return {name: result for name, result in self.seen.results.items() if name not in self.running}

    @cached_property
    def cells(self) -> dict[tuple[Any, Any], CellProgress]:
        """The cells, by row and column."""
        table = self.experiment.table
        cells: dict[tuple[Any, Any], list[str]] = {}
        for name, run in self.runs.items():
            cells.setdefault((getattr(run, table.rows), getattr(run, table.columns)), []).append(name)
        return {key: self._progress_of(names) for key, names in cells.items()}

    @cached_property
    def total(self) -> CellProgress:
        """All runs."""
        return self._progress_of(self.runs)

    def _progress_of(self, names: Collection[str]) -> CellProgress:
        results = (self.ended[name] for name in names if name in self.ended)
        running = [self.running[name] for name in names if name in self.running]

        def shares(elsewhere: bool) -> tuple[float, ...]:
            return tuple(one.iteration / one.iterations for one in running if one.elsewhere == elsewhere)

        return CellProgress.of(len(names), results, here=shares(False), elsewhere=shares(True))

    @property
    def images_per_second(self) -> float | None:
        """Training images per second of all running runs whose speed was measured; None if there are none."""
        return sum(self.runs[name].batch_size * self.speeds.get(name, 0.0) for name in self.running) or None

    @cached_property
    def _estimated_speeds(self) -> dict[str, float]:
        """Iterations per second of the running runs: measured, or else the mean of all runs that it is known of."""
        whole = (one for one in self.ended.values() if one and one.final and one.iteration == one.run.iterations)
        known = [*self.speeds.values(), *(one.iteration / one.seconds for one in whole if one.seconds)]
        usual = fmean(known) if known else 0.0
        return {name: self.speeds.get(name, usual) for name in self.running} if known else {}

    @cached_property
    def seconds_left(self) -> dict[str, float]:
        """run_id -> estimated seconds that a running run still takes; empty if no speed is known."""
        left = {name: one.iterations - one.iteration for name, one in self.running.items()}
        return {name: left[name] / speed for name, speed in self._estimated_speeds.items()}

    @cached_property
    def total_seconds_left(self) -> float | None:
        """Estimated seconds until all runs are over; None if nothing is running or no speed is known.

        The work left over the work done per second, and no less than the slowest running run takes.
        """
        if not self.seconds_left:
            return None
        work = sum(run.iterations for name, run in self.runs.items() if name not in self.ended)
        work -= sum(one.iteration for one in self.running.values())
        return max(*self.seconds_left.values(), work / sum(self._estimated_speeds.values()))
