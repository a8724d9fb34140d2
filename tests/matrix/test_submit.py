"""Workers on a cluster: how many are submitted and when, on a cluster that only keeps count."""

import pytest

from replicate.errors import UsageError
from replicate.matrix.clusters import Outcome, Work
from replicate.matrix.resources import Deadline
from replicate.matrix.scheduler import MatrixSummary
from replicate.matrix.submit import IDLE_LOOKS, Workers

DONE = MatrixSummary(0, 0)
LOST = RuntimeError("its node was lost")


class Counting:
    """A cluster without machines, and its workers."""

    def __init__(self, count: int, retries: int, deadline: Deadline | None = None) -> None:
        self.workers: list[str] = []
        self.submitted: list[int] = []
        self.ends: list[Outcome] = []
        self.refusal: str | None = None
        self.given: list[Work] = []  # here, the seconds that each worker has
        self.notes: list[str] = []
        self.tend = Workers(self, lambda left: left, count, retries, deadline or Deadline(), self.notes.append).tend

    def submit(self, work: Work, count: int) -> str:
        if self.refusal:
            raise UsageError(self.refusal)
        self.workers += ["job 7"] * count
        self.submitted.append(count)
        self.given.append(work)
        return f"{count} to nowhere"

    def ended(self) -> list[tuple[str, Outcome]]:
        ends, self.ends = self.ends, []
        del self.workers[: len(ends)]
        return [("job 7", outcome) for outcome in ends]


def test_a_worker_that_failed_is_replaced_within_the_retries() -> None:
    cluster = Counting(count=2, retries=1)
    assert cluster.tend(free=9, held=0)
    for submitted in ([2, 1], [2, 1, 1], [2, 1, 1]):
        cluster.ends = [LOST]
        assert cluster.tend(free=7, held=2)
        assert cluster.tend(free=7, held=2)
        assert cluster.submitted == submitted
    cluster.ends = [LOST]
    assert cluster.tend(free=7, held=1)
    assert not cluster.tend(free=7, held=1)
    assert cluster.submitted == [2, 1, 1]
    assert cluster.notes.count("job 7 failed: its node was lost") == 4
    assert cluster.notes[-1] == "no worker is left, and --retries 1 allows no more; runs left: 8"


def test_a_worker_is_replaced_once_there_is_a_run_for_it() -> None:
    cluster = Counting(count=1, retries=1)
    assert cluster.tend(free=0, held=1)  # the runs of another command are awaited
    assert cluster.submitted == []
    assert cluster.tend(free=1, held=0)
    cluster.ends = [LOST]
    assert cluster.tend(free=0, held=1)
    assert cluster.tend(free=0, held=1)  # its lease has not expired yet
    assert cluster.submitted == [1]
    assert cluster.tend(free=1, held=0)
    assert cluster.submitted == [1, 1]
    cluster.ends = [DONE]  # after the look that saw its run running
    assert cluster.tend(free=0, held=1)
    assert not cluster.tend(free=0, held=0)


def test_workers_have_time_to_end_by_themselves() -> None:
    cluster = Counting(count=4, retries=0)
    assert cluster.tend(free=3, held=0)  # no more workers than runs that nobody holds
    for outcome in (LOST, UsageError("there is no GPU 0")):  # how they end does not matter any more
        cluster.ends = [outcome]
        assert cluster.tend(free=0, held=0)
    assert cluster.tend(free=0, held=1)  # one retries a run that had just failed
    assert [cluster.tend(free=0, held=0) for _ in range(IDLE_LOOKS)] == [True] * (IDLE_LOOKS - 1) + [False]
    assert cluster.notes == ["submitted 3 to nowhere"]


def test_a_cluster_that_refuses_the_first_workers_ends_the_command_and_later_ones_are_lost() -> None:
    cluster = Counting(count=1, retries=2)
    cluster.refusal = "SLURM refuses the jobs"
    with pytest.raises(UsageError, match="SLURM refuses the jobs"):
        cluster.tend(free=1, held=0)
    cluster.refusal = None
    assert cluster.tend(free=1, held=0)
    cluster.ends, cluster.refusal = [LOST], "SLURM refuses the jobs"
    assert cluster.tend(free=0, held=1)
    assert cluster.tend(free=1, held=1)
    assert not cluster.tend(free=1, held=0)
    assert cluster.notes.count("SLURM refuses the jobs") == 2


def test_wrong_usage_in_a_worker_ends_the_command() -> None:
    cluster = Counting(count=2, retries=3)
    cluster.ends = [UsageError("there is no GPU 0")]
    with pytest.raises(UsageError, match="job 7: there is no GPU 0"):
        cluster.tend(free=2, held=0)


def test_near_the_time_limit_no_worker_starts() -> None:
    now = [0.0]
    cluster = Counting(1, 5, Deadline(100.0, clock=lambda: now[0]))
    for now[0] in (10.0, 50.0, 95.0):
        cluster.tend(free=1, held=0)
        cluster.ends = [LOST] * len(cluster.workers)
        cluster.tend(free=0, held=1)
    assert cluster.given == [90.0, 50.0]  # a worker gets the remaining time
    now[0] = 99.0
    assert not cluster.tend(free=0, held=1)
    assert cluster.notes[-1] == "time limit reached"
