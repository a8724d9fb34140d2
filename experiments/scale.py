"""How the matrix scales: the scheduler on 1,000 slots by simulation, and this machine's own with 1 and 2 workers.

python experiments/scale.py fleet     # 10,000 runs on 1,000 slots, virtual clock, about 3 minutes
python experiments/scale.py workers   # the same short runs, by 1 and by 2 workers in turn, and the ratio
"""

import argparse
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

from replicate.experiment import Experiment
from replicate.matrix.display import Display
from replicate.matrix.local import Event, LocalLauncher
from replicate.matrix.plan import left_to_do, survey
from replicate.matrix.scheduler import run_all
from replicate.matrix.slots import Slot, make_slots
from replicate.matrix.task import PRELOAD, Done, Task
from replicate.options import Options
from replicate.run import Run

TABLE3 = Path(__file__).parent / "table3.yaml"
SECONDS = 300.0  # of a run of the pilot with relu; maxout takes about twice as long


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated fleet took.

    Args:
        runs: carried out.
        slots: of the fleet.
        makespan: seconds from the first start to the last end, the scheduler's own time included.
        ideal: seconds below which no schedule can be: all work evenly spread, or the longest run.
        own: processor seconds of the scheduler, in which it does nothing else.
        memory: peak of this process in bytes, interpreter and libraries included.
    """

    runs: int
    slots: int
    makespan: float
    ideal: float
    own: float
    memory: int

    @property
    def over(self) -> float:
        """By how much the makespan exceeds the ideal, in %."""
        return 100 * (self.makespan / self.ideal - 1)


class VirtualFleet:
    """Takes the place of the launcher: a run ends when its time has passed on a virtual clock.

    The clock jumps to the next end, and advances by the processor time that the scheduler spends between two calls:
    the fleet waits for the scheduler. Records are written, as runs would; that time is not counted.

    Args:
        seconds: that a run takes.
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

    def events(self, timeout: float) -> Iterator[Event]:
        """Go to the next end, and yield all that have ended by then."""
        self.charge()
        self.now = max(self.now, self._ends[0][0]) if self._ends else self.now
        while self._ends and self._ends[0][0] <= self.now:
            _, _, task, work = heapq.heappop(self._ends)
            lease = work.acquire(work.token)
            assert lease is not None  # nobody else works in this folder
            with lease:
                result = nothing(work.run, work.options, lease)
            self._mark = time.process_time()
            yield Event("done", task, Done(result))
            self.charge()

    def stop(self, seconds: float = 0.0) -> None:
        """Nothing is left to stop."""

    def charge(self) -> None:
        """Advance the clock by what the scheduler has spent since the last call."""
        spent = time.process_time() - self._mark
        self.now += spent
        self.own += spent
        self._mark += spent


def simulate(runs: Sequence[Run], slots: int, seconds: Callable[[Run], float]) -> Simulated:
    """Carry out runs that take no time on slots that do not exist.

    Args:
        runs: in their order; all on the synthetic images.
        slots: number of slots.
        seconds: that each run takes.
    """
    fleet = VirtualFleet(seconds)
    places = [Slot(f"gpu {number}", "cuda", {}) for number in range(slots)]
    with tempfile.TemporaryDirectory() as folder, Display(Console(file=StringIO())) as display:
        options = Options(Path(folder), commit=("unknown", None))
        todo = left_to_do(options.out, runs, {"synthetic": FINGERPRINT}, display)
        outcome = run_all(cast(LocalLauncher, fleet), runs, todo, places, options, display)
    fleet.charge()
    assert outcome.exit_code == 0
    work = [seconds(run) for run in runs]
    ideal = max(sum(work) / slots, *work)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
    return Simulated(len(runs), slots, fleet.now, ideal, fleet.own, memory)


def jittered(run: Run) -> float:
    """Seconds of a run: by its activation, and 5 % up and down."""
    chance = random.Random(run.run_id).gauss(1, 0.05)
    return SECONDS * (2 if run.activation == "maxout" else 1) * chance


def fleet(runs: int, slots: int) -> None:
    """Print a row for runs of one length, and for those of table 3, with the fleet at a tenth and in full."""
    print("| runs | slots | lengths | makespan | over the ideal | scheduler | a run | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for share in (10, 1):
        seeds = list(range(-(-runs // share // 23)))
        many = Experiment.load(TABLE3).with_settings({"dataset": "synthetic", "seed": seeds}).runs()[: runs // share]
        for name, seconds in (("equal", lambda run: SECONDS), ("as in table 3, ± 5 %", jittered)):
            one = simulate(many, slots // share, seconds)
            own = f"{one.own:.1f} s | {1000 * one.own / one.runs:.2f} ms | {one.memory / 2**20:.0f} MiB"
            print(f"| {one.runs:,} | {one.slots:,} | {name} | {one.makespan:,.0f} s | {one.over:.2f} % | {own} |")


def workers(windows: int, runs: int, iterations: int) -> None:
    """Time short runs by 1 and by 2 workers in turn, start-up included.

    Next to each ratio are the cores that were idle while one worker ran: below one, other processes used a part of the
    second worker's core. The median is over the windows in which at least 0.9 cores were idle.
    """
    first = Run("orthonormal", "relu", dataset="synthetic", width=0.25, iterations=iterations, milestones=(),
                precision="32-true")  # fmt: skip
    many = [replace(first, seed=seed) for seed in range(runs)]
    quiet = []
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console(file=StringIO())) as display:
        survey(launcher, many, Path("data"), display)  # the server is up, the images are drawn
        for window in range(1, windows + 1):
            (one, idle), (two, _) = (_timed(launcher, many, count, display) for count in (1, 2))
            quiet += [one / two] if idle >= 0.9 else []
            print(f"{window}: {one:.1f} s by 1, {two:.1f} s by 2: {one / two:.2f} ×; {idle:.2f} cores idle", flush=True)
    median = f"median {statistics.median(quiet):.2f} ×" if quiet else "no result"
    print(f"{median}, {len(quiet)} of {windows} windows were quiet, {runs} runs of {iterations} iterations")


def _timed(launcher: LocalLauncher, runs: list[Run], count: int, display: Display) -> tuple[float, float]:
    """Seconds that the runs take, and cores that are idle meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        slots, begin, idle = make_slots("cpu", count, 1, 0), time.perf_counter(), psutil.cpu_times().idle
        outcome = run_all(launcher, runs, runs, slots, Options(Path(folder)), display)
        seconds = time.perf_counter() - begin
        idle = psutil.cpu_times().idle - idle
    if outcome.exit_code:
        sys.exit("stopped, or a run has failed")
    return seconds, idle / seconds


def main() -> None:
    """Carry out one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fleet", "workers"))
    parser.add_argument("--runs", type=int, help="of the fleet (10000), or of each window (4)")
    parser.add_argument("--slots", type=int, default=1000, help="of the fleet (1000)")
    parser.add_argument("--windows", type=int, default=3, help="times that the workers are measured (3)")
    parser.add_argument("--iterations", type=int, default=100, help="of a worker's run (100)")
    args = parser.parse_args()
    if args.what == "fleet":
        fleet(args.runs or 10_000, args.slots)
    else:
        workers(args.windows, args.runs or 4, args.iterations)


if __name__ == "__main__":
    main()
