"""Clusters: copies of the same command as workers on their nodes, kept at work by the command in front.

Leases share the runs out, so nobody tells a worker what to do: it carries out runs that nobody holds, until none is
left. The command in front watches the output folder, as `status` does, frees the leases of dead processes, and replaces
workers that are lost.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from replicate.errors import UsageError
from replicate.matrix.limit import Limit
from replicate.matrix.scheduler import Outcome

MAX_WORKERS = 1000  # SLURM's own limit of an array (MaxArraySize) where nobody has set another
IDLE_SECONDS = 10.0  # that workers have to end by themselves when no run is left
STOP_SECONDS = 120.0  # between asking workers to stop and cancelling them

Work = Callable[[], Outcome]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a worker did not do its work; `usage`: it was asked for what cannot be done, and so would be any other."""

    reason: str
    usage: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a worker ended, by its name."""

    worker: str
    outcome: Outcome | Failure


class Cluster(Protocol):
    """Starts workers somewhere and ends them."""

    @property
    def alive(self) -> int:
        """Number of workers, waiting or running, that `ended` has not named."""

    def submit(self, work: Work, count: int) -> str:
        """Submit workers, and say what was submitted.

        Raises:
            UsageError: the cluster refuses them.
        """

    def ended(self) -> Iterable[Ended]:
        """Name the workers that have ended since the last call."""

    def cancel_waiting(self) -> None:
        """Cancel the workers that have not started."""

    def stop(self) -> None:
        """End every worker: ask first, so that its runs save checkpoints, and cancel it after STOP_SECONDS."""


class Workers:
    """Keeps workers at work on a cluster while runs are left.

    Args:
        cluster: starts them.
        work: makes the function that a worker calls, from the seconds that it has.
        count: largest number of workers at a time.
        retries: at most `count` × `retries` workers are replaced.
        limit: of the whole command.
        say: takes what the user should know.
    """

    def __init__(
        self,
        cluster: Cluster,
        work: Callable[[float], Work],
        count: int,
        retries: int,
        limit: Limit,
        say: Callable[[str], None],
    ) -> None:
        self._cluster, self._work, self._count, self._limit, self._say = cluster, work, count, limit, say
        self._retries, self._budget = retries, count * (1 + retries)
        self._submitted = False
        self._idle_since: float | None = None

    def tend(self, free: int, held: int) -> bool:
        """Submit the workers that are missing, and say whether there is something to wait for.

        Call it after each look at the output folder. It asks the cluster last: a worker that has ended counts as alive
        until the next look, which shows what that worker has left.

        Args:
            free: number of runs that are left and that no process holds.
            held: number of runs that are left and that some process holds.

        Raises:
            UsageError: from a worker, or the cluster refuses the first ones.
        """
        goes_on = self._submit_missing(free, held) if free + held else self._is_ending()
        for one in self._cluster.ended():
            if isinstance(one.outcome, Failure) and free + held:  # else we have cancelled it, or it came too late
                if one.outcome.usage:
                    raise UsageError(f"{one.worker}: {one.outcome.reason}")
                self._say(f"{one.worker} failed: {one.outcome.reason}")
        return goes_on

    def _submit_missing(self, free: int, held: int) -> bool:
        self._idle_since = None
        if self._limit.reached():
            self._say("time limit reached")
            return False
        missing = min(self._count, free) - self._cluster.alive
        if missing > 0 and self._budget and self._limit.may_start():
            self._submit(min(missing, self._budget))
        if self._cluster.alive or (held and self._budget):
            return True
        if not self._budget:
            self._say(f"no worker is left, and --retries {self._retries} allows no more; runs left: {free + held}")
        return False

    def _submit(self, count: int) -> None:
        self._budget -= count
        try:
            self._say(f"submitted {self._cluster.submit(self._work(self._limit.left), count)}")
        except UsageError as error:
            if not self._submitted:
                raise
            self._say(str(error))
        self._submitted = True

    def _is_ending(self) -> bool:
        """Wait for workers that are about to end: one may be about to retry a run that has just failed."""
        self._cluster.cancel_waiting()
        now = time.monotonic()
        self._idle_since = now if self._idle_since is None else self._idle_since
        return self._cluster.alive > 0 and now - self._idle_since < IDLE_SECONDS


def guarded(work: Work) -> Outcome | Failure:
    """Do a worker's work; what it raises travels to the command in front as a value, and to the worker's log."""
    try:
        return work()
    except UsageError as error:
        return Failure(str(error), usage=True)
    except Exception as error:
        traceback.print_exc()
        return Failure(f"{type(error).__name__}: {error}")


def values(options: Mapping[str, str]) -> dict[str, Any]:
    """Read a cluster's options as typed: numbers, true and false, lists and objects as JSON, all else as text."""
    return {name: _value(text) for name, text in options.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
