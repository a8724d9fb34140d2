"""Slots from what the user names and what is there."""

import os

import pytest

from replicate.errors import UsageError
from replicate.matrix.slots import make_slots


def tokens(devices: str, per_device: int | None = None, gpus: int = 4, visible: str | None = None) -> list[str]:
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(devices, per_device, 1, gpus, visible)]


def test_each_gpu_is_a_slot_that_sees_itself_alone() -> None:
    assert tokens("auto") == ["0", "1", "2", "3"]
    assert tokens("1,3") == ["1", "3"]
    assert {slot.device for slot in make_slots("auto", None, 1, 2)} == {"cuda"}


def test_several_runs_a_gpu_spread_first() -> None:
    assert tokens("0,1", per_device=2) == ["0", "1", "0", "1"]


def test_a_run_takes_several_gpus_where_it_is_asked_for() -> None:
    slots = make_slots("auto", 2, 1, gpus=5, visible="7,6,5,4,3", per_run=2)
    assert [slot.name for slot in slots] == ["gpu 0+1", "gpu 2+3"] * 2
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots[:2]] == ["7,6", "5,4"]  # the fifth stays idle
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert len(make_slots("cpu", None, 1, 0, per_run=2)) == max(1, cores // 2)
    with pytest.raises(UsageError, match="--devices-per-run 3 needs as many GPUs; --devices 0,1 gives 2"):
        make_slots("0,1", None, 1, gpus=4, per_run=3)
    with pytest.raises(UsageError, match="--devices-per-run 0 is out of range"):
        make_slots("cpu", None, 1, gpus=0, per_run=0)


def test_numbers_count_what_this_process_sees() -> None:
    assert tokens("0,1", gpus=2, visible="5,GPU-8f3a") == ["5", "GPU-8f3a"]


def test_the_cpu_has_a_slot_for_every_run_that_fits() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert len(make_slots("cpu", None, 1, 4)) == cores
    assert len(make_slots("cpu", None, 2 * cores, 0)) == 1
    assert len(make_slots("auto", 3, 1, gpus=0)) == 3
    (slot,) = make_slots("cpu", 1, 1, gpus=4)
    assert (slot.device, slot.environment["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")


def test_apples_gpu_is_taken_only_where_it_is_named() -> None:
    (slot,) = make_slots("mps", None, 1, gpus=0, mps=True)
    assert (slot.name, slot.device, slot.environment) == ("mps", "mps", {})
    assert len(make_slots("mps", 2, 1, gpus=0, mps=True)) == 2
    assert {one.device for one in make_slots("auto", None, 1, gpus=0, mps=True)} == {"cpu"}
    with pytest.raises(UsageError, match="--devices-per-run 2 needs as many GPUs; --devices mps gives 1"):
        make_slots("mps", None, 1, gpus=0, per_run=2, mps=True)


@pytest.mark.parametrize(
    ("devices", "per_device", "threads", "message"),
    [
        ("gpu", None, 1, "unknown device 'gpu'; choose from: auto, cpu, mps, or GPU numbers such as 0,1"),
        ("mps", None, 1, "--devices mps needs an Apple GPU that torch can use: this machine has 2 GPUs and its CPU"),
        ("-1", None, 1, "unknown device '-1'"),
        ("0,", None, 1, "unknown device '0,'"),
        ("7", None, 1, "there is no GPU 7: this machine has 2 GPUs and its CPU"),
        ("0,0", None, 1, "names a GPU twice"),
        ("0", 0, 1, "--per-device 0 is out of range"),
        ("cpu", None, 0, "--threads-per-run 0 is out of range"),
    ],
)
def test_what_is_not_there_is_refused(devices: str, per_device: int | None, threads: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_slots(devices, per_device, threads, gpus=2)
