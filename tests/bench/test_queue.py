"""The scheduler's own cost."""

from replicate.bench.queue import queue_cost
from replicate.matrix.local import LocalLauncher
from replicate.matrix.task import PRELOAD


def test_every_run_of_the_queue_is_carried_out_and_paid_for() -> None:
    with LocalLauncher(preload=PRELOAD) as launcher:
        (one, a), (three, b) = queue_cost(launcher, (1, 3))
    assert (one, three) == (1, 3)
    assert a > 0
    assert b > 0
