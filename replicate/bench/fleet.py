"""The scheduler on a fleet that is not there: thousands of runs on a virtual clock, through `run_all` itself."""

import heapq
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from replicate.bench.queue import FINGERPRINT, nothing
from replicate.matrix.display import Display
from replicate.matrix.local import Event, LocalLauncher
from replicate.matrix.plan import left_to_do
from replicate.matrix.scheduler import run_all
from replicate.matrix.slots import Slot
from replicate.matrix.task import Done, Task
from replicate.options import Options
from replicate.run import Run


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a fleet fared.

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

    The clock jumps to the next end, and goes on by the processor time that the scheduler spends between two calls: what
    the scheduler is slow in, the fleet waits for. Records are written, as runs would; that time is not counted.

    Args:
        seconds: that a run takes.
    """

    def __init__(self, seconds: Callable[[Run], float]) -> None:
        self.now = self.own = 0.0
        self._seconds = seconds
        self._mark = time.process_time()
        self._ends: list[tuple[float, int, str, Task]] = []
        self._started = 0

    def __enter__(self) -> "VirtualFleet":
        return self

    def __exit__(self, *_: object) -> None:
        pass

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
        """Let the clock go on by what the scheduler has spent since the last call."""
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
    return Simulated(len(runs), slots, fleet.now, ideal, fleet.own, _peak())


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
