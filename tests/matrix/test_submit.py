"""Workers on a cluster: how many are submitted and when, on a cluster that only keeps count."""

from collections.abc import Callable

import pytest

from replicate.errors import UsageError
from replicate.matrix import submit
from replicate.matrix.limit import Limit
from replicate.matrix.scheduler import Outcome
from replicate.matrix.submit import Ended, Failure, Work, Workers, guarded, values

DONE = Outcome(0, 0)


class Counting:
    """A cluster without machines."""

    def __init__(self) -> None:
        self.alive, self.submitted, self.cancelled = 0, [], 0
        self.ends: list[Ended] = []
        self.refusal: str | None = None

    def submit(self, work: Work, count: int) -> str:
        if self.refusal:
            raise UsageError(self.refusal)
        self.alive += count
        self.submitted.append(count)
        return f"{count} to nowhere"

    def end(self, outcome: Outcome | Failure, count: int = 1) -> None:
        self.ends += [Ended("job 7", outcome)] * count

    def ended(self) -> list[Ended]:
        ends, self.ends = self.ends, []
        self.alive -= len(ends)
        return ends

    def cancel_waiting(self) -> None:
        self.cancelled += 1

    def stop(self) -> None:
        pass


def make(count: int, retries: int, limit: Limit | None = None) -> tuple[Counting, Workers, list[str]]:
    cluster, said = Counting(), []

    def work(seconds: float) -> Work:
        return lambda: DONE

    return cluster, Workers(cluster, work, count, retries, limit or Limit(), said.append), said


def test_no_more_workers_than_runs_that_nobody_holds() -> None:
    cluster, workers, said = make(count=4, retries=0)
    assert workers.tend(free=3, held=5)
    assert workers.tend(free=3, held=5)
    assert cluster.submitted == [3]
    assert said == ["submitted 3 to nowhere"]


def test_a_worker_that_failed_is_replaced_within_the_retries() -> None:
    cluster, workers, said = make(count=2, retries=1)
    assert workers.tend(free=9, held=0)
    for submitted in ([2, 1], [2, 1, 1], [2, 1, 1]):
        cluster.end(Failure("its node was lost"))
        assert workers.tend(free=7, held=2)
        assert workers.tend(free=7, held=2)
        assert cluster.submitted == submitted
    cluster.end(Failure("its node was lost"))
    assert workers.tend(free=7, held=1)
    assert not workers.tend(free=7, held=1)
    assert cluster.submitted == [2, 1, 1]
    assert said.count("job 7 failed: its node was lost") == 4
    assert said[-1] == "no worker is left, and --retries 1 allows no more; runs left: 8"


def test_a_worker_is_replaced_once_there_is_a_run_for_it() -> None:
    cluster, workers, _ = make(count=1, retries=1)
    assert workers.tend(free=1, held=0)
    cluster.end(Failure("its node was lost"))
    assert workers.tend(free=0, held=1)
    assert workers.tend(free=0, held=1)  # its lease has not expired yet
    assert cluster.submitted == [1]
    assert workers.tend(free=1, held=0)
    assert cluster.submitted == [1, 1]


def test_a_worker_that_ended_after_the_look_has_left_nothing_behind() -> None:
    cluster, workers, said = make(count=1, retries=0)
    assert workers.tend(free=1, held=0)
    cluster.end(DONE)  # and the look before saw its run running
    assert workers.tend(free=0, held=1)
    assert not workers.tend(free=0, held=0)
    assert said == ["submitted 1 to nowhere"]


def test_the_runs_of_another_command_are_waited_for() -> None:
    cluster, workers, _ = make(count=1, retries=0)
    assert workers.tend(free=0, held=2)
    assert cluster.submitted == []
    assert not workers.tend(free=0, held=0)


def test_workers_have_time_to_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("replicate.matrix.submit.time.monotonic", lambda: now[0])
    cluster, workers, _ = make(count=2, retries=0, limit=Limit(clock=lambda: 0.0))
    assert workers.tend(free=2, held=0)
    assert workers.tend(free=0, held=0)
    assert cluster.cancelled == 1  # those that have not started
    now[0] = submit.IDLE_SECONDS - 1
    assert workers.tend(free=0, held=1)  # one retries a run that had just failed
    now[0] = submit.IDLE_SECONDS + 1
    assert workers.tend(free=0, held=0)
    now[0] = 2 * submit.IDLE_SECONDS + 2
    assert not workers.tend(free=0, held=0)


def test_how_workers_end_does_not_matter_once_no_run_is_left() -> None:
    cluster, workers, said = make(count=3, retries=0)
    assert workers.tend(free=3, held=0)
    for outcome in (Failure("it was cancelled"), Failure("there is no GPU 0", usage=True)):
        cluster.end(outcome)  # as after `cancel_waiting`
        assert workers.tend(free=0, held=0)
    assert said == ["submitted 3 to nowhere"]


def test_wrong_usage_ends_the_command() -> None:
    cluster, workers, _ = make(count=2, retries=3)
    assert workers.tend(free=2, held=0)
    cluster.end(Failure("there is no GPU 0", usage=True))
    with pytest.raises(UsageError, match="job 7: there is no GPU 0"):
        workers.tend(free=2, held=0)


def test_a_cluster_that_refuses_the_first_workers_ends_the_command_and_later_ones_are_lost() -> None:
    cluster, workers, said = make(count=1, retries=2)
    cluster.refusal = "SLURM refuses the jobs"
    with pytest.raises(UsageError, match="SLURM refuses the jobs"):
        workers.tend(free=1, held=0)
    cluster, workers, said = make(count=1, retries=2)
    assert workers.tend(free=1, held=0)
    cluster.end(Failure("its node was lost"))
    assert workers.tend(free=0, held=1)
    cluster.refusal = "SLURM refuses the jobs"
    assert workers.tend(free=1, held=1)
    assert not workers.tend(free=1, held=0)
    assert said.count("SLURM refuses the jobs") == 2


def test_near_the_time_limit_no_worker_starts() -> None:
    now, given = [0.0], []

    def work(seconds: float) -> Work:
        given.append(seconds)
        return lambda: DONE

    cluster, said = Counting(), []
    workers = Workers(cluster, work, 1, 5, Limit(100.0, clock=lambda: now[0]), said.append)
    for now[0] in (10.0, 50.0, 95.0):
        workers.tend(free=1, held=0)
        cluster.end(Failure("x"), count=cluster.alive)
        workers.tend(free=0, held=1)
    assert given == [90.0, 50.0]  # a worker has the time that is left
    now[0] = 99.0
    assert not workers.tend(free=0, held=1)
    assert said[-1] == "time limit reached"


def raising(error: Exception) -> Callable[[], Outcome]:
    def work() -> Outcome:
        raise error

    return work


def test_what_a_worker_raises_travels_as_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: DONE) == DONE
    assert guarded(raising(UsageError("no such data"))) == Failure("no such data", usage=True)
    assert guarded(raising(RuntimeError("no GPU"))) == Failure("RuntimeError: no GPU")
    assert "Traceback" in capsys.readouterr().err


def test_options_are_json_where_they_can_be() -> None:
    typed = {"time": "60", "partition": "gpu", "gres": "gpu:1", "exclusive": "true", "setup": '["module load x"]'}
    assert values(typed) == {
        **{"time": 60, "partition": "gpu", "gres": "gpu:1", "exclusive": True, "setup": ["module load x"]}
    }
    assert values({"time": "1:00:00"}) == {"time": "1:00:00"}  # in YAML it would be 3600
