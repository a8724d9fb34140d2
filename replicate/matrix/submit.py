"""Keeps copies of the command at work on a cluster, and replaces those that are lost.

Leases share the runs out, so nobody assigns runs to workers: each carries out runs that nobody holds until no run is
left. The command that submitted them watches the output folder, as `status` does.
"""

from collections.abc import Callable
from dataclasses import dataclass

from replicate.errors import UsageError
from replicate.matrix.clusters import RayCluster, SlurmCluster, Work
from replicate.matrix.resources import Deadline

IDLE_LOOKS = 5  # looks without an unfinished run, every two seconds: a worker may be about to retry a failed run


@dataclass
class Workers:
    """Keeps workers at work on a cluster while runs are left.

    Args:
        cluster: starts them.
        make_work: makes the function that a worker calls, from the seconds that it has.
        count: largest number of workers at a time.
        retries: at most `count` × `retries` workers are replaced.
        deadline: of the whole command.
        note: takes what the user should know.
    """

    cluster: SlurmCluster | RayCluster
    make_work: Callable[[float], Work]
    count: int
    retries: int
    deadline: Deadline
    note: Callable[[str], None]

    def __post_init__(self) -> None:
        self._whole_budget = self._budget = self.count * (1 + self.retries)  # workers that may be submitted
        self._idle_looks = 0

    def tend(self, free: int, held: int) -> bool:
        """Submit missing workers, and return whether there is something to wait for.

        Call it after each look at the output folder. It asks the cluster last: a worker that has ended counts as alive
        until the next look, which shows what became of that worker's runs.

        Args:
            free: number of unfinished runs that no process holds.
            held: number of unfinished runs that some process holds.

        Raises:
            UsageError: from a worker, or the cluster refuses the first workers.
        """
        if free + held:
            self._idle_looks = 0
            waits = self._submit_missing(free, held)
        else:
            self._idle_looks += 1
            waits = bool(self.cluster.workers) and self._idle_looks < IDLE_LOOKS
        for name, outcome in self.cluster.ended():
            if isinstance(outcome, Exception) and free + held:  # else it has been cancelled, or came too late
                if isinstance(outcome, UsageError):
                    raise UsageError(f"{name}: {outcome}")
                self.note(f"{name} failed: {outcome}")
        return waits

    def _submit_missing(self, free: int, held: int) -> bool:
        if self.deadline.expired():
            self.note("time limit reached")
            return False
        count = min(min(self.count, free) - len(self.cluster.workers), self._budget)
        if count > 0 and self.deadline.may_start():
            try:
                self.note(f"submitted {self.cluster.submit(self.make_work(self.deadline.remaining()), count)}")
            except UsageError as error:
                if self._budget == self._whole_budget:
                    raise
                self.note(str(error))
            self._budget -= count
        if self.cluster.workers or (held and self._budget):
            return True
        if not self._budget:
            self.note(f"no worker is left, and --retries {self.retries} allows no more; runs left: {free + held}")
        return False
