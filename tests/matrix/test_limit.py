"""The time limit, by a clock that the tests turn."""

from replicate.matrix.limit import END_SECONDS, START_SECONDS, Limit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_no_run_starts_that_cannot_reach_its_next_checkpoint() -> None:
    clock = Clock()
    limit = Limit(100, clock)
    limit.began("a")
    clock.now += 20  # until its first chunk was done
    limit.told("a")
    assert limit.start_up == 20
    for wait in (2, 5, 3):
        clock.now += wait
        limit.told("a")
    assert limit.left == 70
    assert limit.may_start()
    clock.now += 70 - (20 + 5 + END_SECONDS) - 0.1  # a start, a chunk of the longest seen, the checkpoint
    assert limit.may_start()
    clock.now += 0.2
    assert not limit.may_start()
    assert not limit.reached()


def test_runs_are_stopped_so_early_that_they_end_before_the_limit() -> None:
    clock = Clock()
    limit = Limit(60, clock)
    limit.began("slow")
    clock.now += 1
    limit.told("slow")
    clock.now += 15  # seconds a chunk
    limit.told("slow")
    clock.now += 60 - 16 - 15 - END_SECONDS - 0.1
    assert not limit.reached()
    clock.now += 0.2
    assert limit.reached()
    assert limit.left > 15


def test_without_a_measurement_a_start_is_a_guess_and_without_a_limit_nothing_ends() -> None:
    clock = Clock()
    assert Limit(START_SECONDS + END_SECONDS + 1, clock).may_start()
    assert not Limit(START_SECONDS + END_SECONDS - 1, clock).may_start()
    endless = Limit(clock=clock)
    clock.now += 1e9
    assert endless.may_start()
    assert not endless.reached()
