"""The trials of a search: their runs, which of them Hyperband stops early, and where the next stage looks.

Nothing is stored but the runs' records: what was chosen follows from the search file and these. So a search can be
stopped at any moment, and the same command carries out what is missing.
"""

import math
from collections import defaultdict
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

from replicate.run import Run
from replicate.search.proposals import Point, next_points
from replicate.search.space import Space, narrow
from replicate.search.spec import FACTOR, Method, Search
from replicate.store.result import Result

Results = Mapping[str, Result]  # by run_id
Ranked = tuple[float, int]  # accuracy, negative, and number of a trial: the smaller, the better
Pools = defaultdict[tuple[int, int], list[Ranked]]  # bracket and rung -> the trials there
BEST = 4  # one in so many trials is among the best, which the next stage searches around: our choice


class Outcome(NamedTuple):
    """What a trial has found.

    Args:
        method: that chose it.
        stage: from 1.
        trial: its number in its stage, from 0.
        point: field of Run -> value.
        state: `running`, `complete`, `pruned`, or `failed` if a run ended in an error.
        runs: at each of its rungs, the longest last.
        accuracies: of these by rung, on the validation images, in %; 0 for a run that diverged. One that failed has
            none.
        learned: whether the longest run ended above chance, as its record says.
    """

    method: Method
    stage: int
    trial: int
    point: Point
    state: str
    runs: tuple[Run, ...]
    accuracies: dict[int, float]
    learned: bool = False

    @property
    def accuracy(self) -> float | None:
        """The accuracy of the longest run; None if the trial failed."""
        return None if self.state == "failed" else self.accuracies[max(self.accuracies)]

    @property
    def told(self) -> tuple[Point, Mapping[int, float], bool]:
        """What the choice of later trials takes into account."""
        return self.point, self.accuracies, self.state == "pruned"

    @property
    def iterations(self) -> int:
        """Of all its runs."""
        return sum(run.iterations for run in dict.fromkeys(self.runs))


class Trials:
    """The trials of a search.

    Args:
        search: what is searched for.

    Attributes:
        spaces: method and stage -> what the method searches there.
        waiting: whether it waits for runs that failed and may succeed if they are repeated.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.waiting = False
        self.spaces: dict[tuple[Method, int], Space] = {}
        self._ended: dict[tuple[Method, int], list[Outcome]] = {}

    @property
    def outcomes(self) -> list[Outcome]:
        """Of the trials that have ended, by method and stage."""
        places = ((method, n) for method in self.search.methods for n in range(1, len(self.search.stages) + 1))
        return [one for place in places for one in self._ended.get(place, ())]

    def rounds(self, method: Method) -> Generator[list[Run], Results, None]:
        """Go through all stages of a method. Yield the runs that it needs next, and receive their records."""
        space: Space = self.search.space
        for stage in range(len(self.search.stages)):
            self.spaces[method, stage + 1] = space
            ended = self._ended[method, stage + 1] = []
            pools: Pools = defaultdict(list)
            while points := next_points(self.search, method, stage, space, [one.told for one in ended]):
                ended += yield from self._train(method, stage, points, len(ended), pools)
            if best := best_points(ended):
                space = narrow(space, best)

    def _train(
        self, method: Method, stage: int, points: list[Point], first: int, pools: Pools
    ) -> Generator[list[Run], Results, list[Outcome]]:
        """Carry out a batch of trials, numbered from `first`, rung by rung."""
        spec = self.search.stages[stage]
        turns, last = brackets(spec.rungs), spec.rungs - 1
        batch = {
            first + n: Outcome(method, stage + 1, first + n, point, "running", (), {}) for n, point in enumerate(points)
        }
        for rung in range(spec.rungs):
            here = [one for one in batch.values() if one.state == "running" and turns[one.trial % len(turns)] <= rung]
            runs = {one.trial: self.search.run_of(one.point, spec, rung) for one in here}
            if not runs:
                continue
            results = yield [*runs.values()]
            for one in here:
                result = results[runs[one.trial].run_id]
                trained = one._replace(runs=(*one.runs, result.run), learned=result.status == "converged")
                if result.final:
                    trained.accuracies[rung] = result.test_accuracy or 0.0  # none if it diverged
                    pools[turns[one.trial % len(turns)], rung].append((-trained.accuracies[rung], one.trial))
                else:
                    trained = trained._replace(state="failed", accuracies={})
                batch[one.trial] = trained
            for one in [batch[trial] for trial in runs]:
                pool = pools[turns[one.trial % len(turns)], rung]
                if one.state == "running" and rung == last:
                    batch[one.trial] = one._replace(state="complete")
                elif one.state == "running" and not promising((-one.accuracies[rung], one.trial), pool):
                    batch[one.trial] = one._replace(state="pruned")
        return [*batch.values()]


def promising(one: Ranked, pool: Sequence[Ranked]) -> bool:
    """Whether a trial is in the best third of those that its bracket has seen at its rung, and has not diverged.

    Of equally good ones, the earlier is the better.
    """
    return one[0] < 0 and sum(other < one for other in pool) < math.ceil(len(pool) / FACTOR)


def best_points(ended: Sequence[Outcome]) -> list[Point]:
    """The points of the best quarter of the trials, at least two; none if fewer than two have learned anything.

    Complete trials are the best, then those with longer runs.
    """
    found = [one for one in ended if one.learned]
    found.sort(key=lambda one: (one.state != "complete", -max(one.accuracies), -(one.accuracy or 0.0), one.trial))
    return [one.point for one in found[: max(2, len(ended) // BEST)]] if len(found) > 1 else []


def brackets(rungs: int) -> list[int]:
    """Hyperband's brackets (Li et al. 2018): the rung that each trial begins at; trials take them in turn.

    Of three rungs, 9 trials begin at the first, 5 at the second and 3 at the last, evenly mixed: a setting that learns
    late is not always judged by a short training.
    """
    sizes = [math.ceil(rungs / (rungs - first) * FACTOR ** (rungs - 1 - first)) for first in range(rungs)]
    places = (((n + 0.5) / size, first) for first, size in enumerate(sizes) for n in range(size))
    return [first for _, first in sorted(places)]
