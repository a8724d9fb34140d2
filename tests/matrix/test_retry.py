"""Which failed runs are tried again."""

from replicate.matrix.retry import Retries
from replicate.matrix.slots import make_slots

GPUS = make_slots("0,1", 3, 1, gpus=2)
CPU = make_slots("cpu", 2, 1, gpus=0)


def test_what_may_pass_is_tried_again_so_often_and_no_more() -> None:
    retries = Retries(2, CPU)
    assert [retries.judge("a", "killed", CPU[0], 2) is not None for _ in range(4)] == [True, True, False, False]
    assert retries.judge("b", "disk", CPU[0], 2).why == "b failed with a transient error (disk); retry 1 of 2"
    assert Retries(0, CPU).judge("a", "killed", CPU[0], 2) is None


def test_the_runs_own_fault_is_not_tried_again() -> None:
    assert Retries(9, GPUS).judge("a", None, GPUS[0], 3) is None


def test_out_of_memory_on_a_shared_gpu_makes_room_there_and_is_not_counted() -> None:
    retries = Retries(0, GPUS)
    again = retries.judge("a", "out of memory", GPUS[0], 3)
    assert again.fewer
    assert "at most 2 at a time run there" in again.why
    assert (retries.sharing(GPUS[0]), retries.sharing(GPUS[1])) == (2, 3)  # the other GPU is as it was
    # started when three shared: room has been made for it already
    assert retries.judge("b", "out of memory", GPUS[0], 3).fewer is False
    assert retries.judge("a", "out of memory", GPUS[0], 2).fewer
    assert retries.sharing(GPUS[0]) == 1
    assert retries.judge("a", "out of memory", GPUS[0], 1) is None  # alone, it counts as any failure


def test_out_of_memory_elsewhere_or_on_a_cpu_counts() -> None:
    retries = Retries(1, CPU)
    assert retries.judge("a", "out of memory", CPU[0], 2).fewer is False
    assert retries.judge("a", "out of memory", None, 1) is None
