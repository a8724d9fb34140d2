"""How the matrix scales.

- `python experiments/scale.py fleet`: the scheduler with 10,000 runs on 1,000 simulated slots, in about 3 minutes.
- `python experiments/scale.py workers`: short runs on this machine with 1 and with 2 workers in turn, and the ratio.
"""

import heapq
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import psutil
from bench.scheduler import FINGERPRINT, nothing
from rich.console import Console
from script import make_app, run_app

from replicate.experiment import Experiment
from replicate.matrix.display import Display
from replicate.matrix.local import Ended, LocalLauncher
from replicate.matrix.plan import survey, unfinished_runs
from replicate.matrix.resources import Deadline, Slot, make_slots
from replicate.matrix.scheduler import Scheduler
from replicate.matrix.task import PRELOAD, Task
from replicate.options import Options
from replicate.run import Run

TABLE3 = Path(__file__).parent / "table3.yaml"
SECONDS = 300.0  # of a run of the pilot with relu; maxout takes about twice as long

app = make_app("scale", __doc__)


@dataclass(frozen=True, slots=True)
class Simulated:
    """The result of a simulation.

    Args:
        runs: number of runs.
        slots: number of slots.
        makespan: seconds from the first start to the last end, including the scheduler's own time.
        ideal: lower bound of the makespan in seconds: all work evenly spread, or the longest run.
        own: processor seconds of the scheduler.
        memory: peak of this process in bytes, including the interpreter and libraries.
    """

    runs: int
    slots: int
    makespan: float
    ideal: float
    own: float
    memory: int

    @property
    def excess(self) -> float:
        """Excess of the makespan over the ideal, in %."""
        return 100 * (self.makespan / self.ideal - 1)


class VirtualFleet:
    """Replaces the launcher: a run ends when its time has passed on a virtual clock.

    The clock jumps to the next end, and advances by the processor time that the scheduler spends between two calls,
    because the fleet waits for the scheduler. Records are written as by real runs; that time is not counted.

    Args:
        seconds: returns the seconds that a run takes.
    """

    def __init__(self, seconds: Callable[[Run], float]) -> None:
        self.now = self.own = 0.0
        self._seconds = seconds
        self._mark = time.process_time()
        self._ends: list[tuple[float, int, str, Task]] = []
        self._started = 0

    def start(
        self, task: str, function: str, arguments: tuple[Any, ...], environment: Mapping[str, str], log: Path
    ) -> None:
        """Note when the run will end."""
        self.charge()
        work: Task = arguments[0]
        self._started += 1
        heapq.heappush(self._ends, (self.now + self._seconds(work.run), self._started, task, work))

    def events(self, timeout: float) -> Iterator[Ended]:
        """Advance to the next end, and yield all runs that have ended by then."""
        self.charge()
        self.now = max(self.now, self._ends[0][0]) if self._ends else self.now
        while self._ends and self._ends[0][0] <= self.now:
            _, _, task, work = heapq.heappop(self._ends)
            lease = work.acquire(work.token)
            assert lease is not None  # no other process works in this folder
            with lease:
                result = nothing(work.run, work.options, lease)
            self._mark = time.process_time()
            yield Ended(task, result)
            self.charge()

    def stop(self, seconds: float = 0.0) -> None:
        """Do nothing: there are no processes."""

    def charge(self) -> None:
        """Advance the clock by the processor time that the scheduler has used since the last call."""
        spent = time.process_time() - self._mark
        self.now += spent
        self.own += spent
        self._mark += spent


def simulate(runs: Sequence[Run], slots: int, seconds: Callable[[Run], float]) -> Simulated:
    """Carry out simulated runs on simulated slots.

    Args:
        runs: the runs in their order, all on the synthetic images.
        slots: number of slots.
        seconds: returns the seconds that a run takes.
    """
    fleet = VirtualFleet(seconds)
    places = [Slot(f"gpu {number}", "cuda", {}) for number in range(slots)]
    with tempfile.TemporaryDirectory() as folder, Display(Console(file=StringIO())) as display:
        options = Options(Path(folder))
        todo = unfinished_runs(options.out, runs, {"synthetic": FINGERPRINT}, display)
        outcome = Scheduler(cast(LocalLauncher, fleet), places, options, display).run(runs, todo)
    fleet.charge()
    assert outcome.exit_code == 0
    work = [seconds(run) for run in runs]
    ideal = max(sum(work) / slots, *work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
    return Simulated(len(runs), slots, fleet.now, ideal, fleet.own, memory)


def jittered(run: Run) -> float:
    """Return the seconds of a run, which depend on its activation, with 5 % random scatter."""
    chance = random.Random(run.run_id).gauss(1, 0.05)
    return SECONDS * (2 if run.activation == "maxout" else 1) * chance


@app.command
def fleet(*, runs: int = 10_000, slots: int = 1000) -> None:
    """Simulate runs of equal lengths and of those in Table 3, on a tenth of the slots and on all of them.

    Args:
        runs: Number of runs.
        slots: Number of slots.
    """
    print("| runs | slots | lengths | makespan | above ideal | scheduler | per run | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for share in (10, 1):
        seeds = list(range(-(-runs // share // 23)))
        many = Experiment.load(TABLE3).with_settings({"dataset": "synthetic", "seed": seeds}).runs()[: runs // share]
        for name, seconds in (("equal", lambda run: SECONDS), ("Table 3", jittered)):
            one = simulate(many, slots // share, seconds)
            own = f"{one.own:.1f} s | {1000 * one.own / one.runs:.2f} ms | {one.memory / 2**20:.0f} MiB"
            print(f"| {one.runs:,} | {one.slots:,} | {name} | {one.makespan:,.0f} s | {one.excess:.2f} % | {own} |")


@app.command
def workers(*, windows: int = 3, runs: int = 4, iterations: int = 100) -> None:
    """Time short runs with 1 and with 2 workers in turn, including their start.

    Next to each ratio is the number of cores that were idle while one worker ran. Below one, other processes used a
    part of the second worker's core. The median is over the windows in which at least 0.9 cores were idle.

    Args:
        windows: Number of measurements.
        runs: Number of runs in each.
        iterations: Iterations of each run.
    """
    first = Run("orthonormal", "relu", dataset="synthetic", width=0.25, iterations=iterations, milestones=(),
                precision="32-true")  # fmt: skip
    many = [replace(first, seed=seed) for seed in range(runs)]
    quiet = []
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console(file=StringIO())) as display:
        survey(launcher, many, Path("data"), display, Deadline())  # starts the server and generates the images
        for window in range(1, windows + 1):
            (one, idle), (two, _) = (_timed(launcher, many, count, display) for count in (1, 2))
            quiet += [one / two] if idle >= 0.9 else []
            print(
                f"{window}: {one:.1f} s with 1, {two:.1f} s with 2: {one / two:.2f} ×; {idle:.2f} cores idle",
                flush=True,
            )
    median = f"median {statistics.median(quiet):.2f} ×" if quiet else "no result"
    print(f"{median}, {len(quiet)} of {windows} windows were quiet, {runs} runs of {iterations} iterations")


def _timed(launcher: LocalLauncher, runs: list[Run], count: int, display: Display) -> tuple[float, float]:
    """Return the seconds that the runs take, and the mean number of idle cores."""
    with tempfile.TemporaryDirectory() as folder:
        slots, begin, idle = make_slots("cpu", count, 1, 0), time.perf_counter(), psutil.cpu_times().idle
        outcome = Scheduler(launcher, slots, Options(Path(folder)), display).run(runs, runs)
        seconds = time.perf_counter() - begin
        idle = psutil.cpu_times().idle - idle
    if outcome.exit_code:
        sys.exit("stopped, or a run has failed")
    return seconds, idle / seconds


if __name__ == "__main__":
    sys.exit(run_app(app))
