"""Slots, the deadline by a clock that the tests turn, and which failed runs are retried."""

import pytest

from replicate.errors import UsageError
from replicate.matrix import resources
from replicate.matrix.limits import RUN_MEMORY
from replicate.matrix.resources import END_SECONDS, START_SECONDS, Deadline, RetryPolicy, make_slots

GPUS = make_slots("0,1", 3, 1, gpus=2)
CPU = make_slots("cpu", 2, 1, gpus=0)


@pytest.mark.parametrize(
    ("devices", "each", "visible", "per_run", "tokens"),
    [
        ("auto", None, None, 1, ["0", "1", "2", "3", "4"]),
        ("0,1", 2, "5,GPU-8f3a,7,8,9", 1, ["5", "GPU-8f3a"] * 2),  # numbers count what this process sees
        ("auto", 2, "7,6,5,4,3", 2, ["7,6", "5,4"] * 2),  # the fifth stays idle
    ],
)
def test_each_slot_sees_its_own_gpus_only(
    devices: str, each: int | None, visible: str | None, per_run: int, tokens: list[str]
) -> None:
    slots = make_slots(devices, each, 1, 5, visible, per_run)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == tokens
    assert {slot.device for slot in slots} == {"cuda"}
    assert slots[1].name == ("gpu 2+3" if per_run == 2 else "gpu 1")


def test_the_cpu_has_a_slot_for_every_run_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 8)
    monkeypatch.setattr(resources, "free_memory", lambda: 100 * RUN_MEMORY)
    assert len(make_slots("cpu", None, 1, 4)) == 8
    assert len(make_slots("cpu", None, 3, 4)) == 2
    assert len(make_slots("cpu", None, 1, 0, per_run=3)) == 2
    assert len(make_slots("cpu", None, 16, 0)) == 1
    monkeypatch.setattr(resources, "free_memory", lambda: 5 * RUN_MEMORY)
    assert len(make_slots("cpu", None, 1, 0)) == 5
    assert len(make_slots("cpu", None, 1, 0, per_run=2)) == 2
    assert len(make_slots("cpu", 7, 1, 0)) == 7
    assert len(make_slots("auto", 3, 1, gpus=0)) == 3
    (slot,) = make_slots("cpu", 1, 1, gpus=4)
    assert (slot.device, slot.environment["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no GPU 7: this machine has 2 GPUs and its CPU"):
        make_slots("7", None, 1, gpus=2)
    with pytest.raises(UsageError, match="--devices-per-run 3 needs as many GPUs; --devices 0,1 gives 2"):
        make_slots("0,1", None, 1, gpus=2, per_run=3)


def test_no_run_starts_that_cannot_reach_its_next_checkpoint() -> None:
    now = [1000.0]
    deadline = Deadline(100, lambda: now[0])
    deadline.started("a")
    for wait in (20, 2, 5, 3):  # the start-up with the first chunk, then the chunks
        now[0] += wait
        deadline.progressed("a")
    assert deadline.remaining() == 70
    now[0] += 70 - (20 + 5 + END_SECONDS) - 0.1  # the start-up, the longest chunk, the checkpoint
    assert (deadline.may_start(), deadline.expired()) == (True, False)
    now[0] += 0.2
    assert (deadline.may_start(), deadline.expired()) == (False, False)
    now[0] += 20
    assert deadline.expired()
    assert deadline.remaining() > 5


def test_before_a_measurement_the_start_up_is_a_guess_and_without_a_limit_nothing_ends() -> None:
    assert Deadline(START_SECONDS + END_SECONDS + 1, lambda: 0.0).may_start()
    assert not Deadline(START_SECONDS + END_SECONDS - 1, lambda: 0.0).may_start()
    assert Deadline().may_start()
    assert not Deadline().expired()


def test_transient_errors_are_retried_within_the_limit() -> None:
    policy = RetryPolicy(2, CPU)
    assert [policy.decide("a", "killed", CPU[0], 2) is not None for _ in range(3)] == [True, True, False]
    assert policy.decide("b", "disk") == "b failed with a transient error (disk); retry 1 of 2"
    assert policy.decide("c", None, CPU[0], 3) is None
    assert "; retry 1 of 2" in policy.decide("d", "out of memory", CPU[0], 2)  # on a CPU it counts
    assert "; retry 2 of 2" in policy.decide("d", "out of memory")  # in another command as well
    assert policy.sharing == {"cpu": 2}


def test_out_of_memory_on_a_shared_gpu_makes_room_there_and_is_not_counted() -> None:
    policy = RetryPolicy(0, GPUS)
    assert "at most 2 at a time run there" in policy.decide("a", "out of memory", GPUS[0], 3)
    assert policy.decide("b", "out of memory", GPUS[0], 3) is not None  # it started when three shared the GPU
    assert policy.sharing == {"gpu 0": 2, "gpu 1": 3}
    assert policy.decide("a", "out of memory", GPUS[0], 2) is not None
    assert policy.sharing["gpu 0"] == 1
    assert policy.decide("a", "out of memory", GPUS[0], 1) is None  # nothing shared the GPU: it counts as any failure
