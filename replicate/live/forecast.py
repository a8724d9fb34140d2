"""How fast runs go and how long they will still take, from what was watched and from the records of runs like them."""

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from replicate.run import Run
from replicate.store.result import Result

WINDOW_SECONDS = 120.0  # that a speed is taken over: an evaluation or two of a short run, and soon anew when it changes
# What the time of an iteration depends on; the initialisation and the seed hardly matter.
LIKE = ("model", "width", "activation", "batch_size", "precision", "dataset")


class Pace:
    """Watches iterations, and so learns how fast runs go.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def told(self, run_id: str, iteration: int) -> None:
        """Note how far a run is."""
        seen, now = self._seen.setdefault(run_id, deque()), self._clock()
        if seen and iteration == seen[-1][1]:
            return
        if seen and iteration < seen[-1][1]:  # it was begun anew
            seen.clear()
        seen.append((now, iteration))
        while len(seen) > 2 and seen[1][0] < now - WINDOW_SECONDS:
            seen.popleft()

    def forget(self, run_id: str) -> None:
        """Forget a run that is not under way any more."""
        self._seen.pop(run_id, None)

    @property
    def rates(self) -> dict[str, float]:
        """run_id -> iterations per second, for runs that were seen to go on."""
        pairs = {name: (seen[0], seen[-1]) for name, seen in self._seen.items() if len(seen) > 1}
        return {name: (b - a) / (end - begin) for name, ((begin, a), (end, b)) in pairs.items() if end > begin}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is to be expected.

    Args:
        each: run_id -> seconds that a run under way will still take, where anything tells.
        whole: seconds until all is done; None where nothing is under way, or nothing tells.
        images_per_second: training images of all runs under way whose speed was watched; None: of none.
    """

    each: Mapping[str, float]
    whole: float | None
    images_per_second: float | None


def forecast(
    runs: Mapping[str, Run],
    ended: Mapping[str, Result | None],
    iterations: Mapping[str, int],
    rates: Mapping[str, float],
) -> Forecast:
    """Tell how long runs will take.

    A run under way goes on as fast as it was seen to go; where it was not seen, and for those waiting, an iteration
    takes as long as in the runs like it (LIKE), done or under way, or else as in all. Those waiting start in their
    order, as many at a time as run now.

    Args:
        runs: run_id -> run, all that were asked for.
        ended: run_id -> record, or None, of those that have ended.
        iterations: run_id -> iterations done, of those under way.
        rates: run_id -> iterations per second.
    """
    speeds = {name: rates[name] for name in iterations if rates.get(name)}
    cost = _costs(runs, ended, speeds)
    each = {}
    for name, done in iterations.items():
        a_step = 1 / speeds[name] if name in speeds else cost(runs[name])
        if a_step is not None:
            each[name] = (runs[name].iterations - done) * a_step
    steps = [(run, cost(run)) for name, run in runs.items() if name not in ended and name not in iterations]
    waiting = [run.iterations * a_step for run, a_step in steps if a_step is not None]
    known = len(each) == len(iterations) > 0 and len(waiting) == len(steps)
    images = [speed * runs[name].batch_size for name, speed in speeds.items()]
    return Forecast(each, _last(list(each.values()), waiting) if known else None, sum(images) if images else None)


def _last(busy: list[float], waiting: list[float]) -> float:
    """Seconds until the last run ends, if each of those waiting starts where a run ends first."""
    ends = list(busy)
    heapq.heapify(ends)
    for seconds in waiting:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def _costs(
    runs: Mapping[str, Run], ended: Mapping[str, Result | None], speeds: Mapping[str, float]
) -> Callable[[Run], float | None]:
    """Seconds that an iteration of a run takes, learned from others."""
    seen: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for name, result in ended.items():
        if result is not None and result.final and 0 < result.iteration == runs[name].iterations:
            seen[_kind(runs[name])].append(result.seconds / result.iteration)
    for name, speed in speeds.items():
        seen[_kind(runs[name])].append(1 / speed)
    means = {kind: fmean(values) for kind, values in seen.items()}
    overall = fmean(value for values in seen.values() for value in values) if seen else None
    return lambda run: means.get(_kind(run), overall)


def _kind(run: Run) -> tuple[Any, ...]:
    return tuple(getattr(run, name) for name in LIKE)
