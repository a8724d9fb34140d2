"""Slots: the places where a run can run, made from the devices that the user names or that are found."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from replicate.errors import UsageError


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one run at a time, on one device or several.

    Args:
        name: for people, such as `gpu 1`, `gpu 0+1`, `mps` or `cpu`.
        device: `cuda`, `mps` or `cpu`, as in Options.
        environment: variables that the run's process needs to see its own devices and no other.
    """

    name: str
    device: str
    environment: Mapping[str, str]


def make_slots(
    devices: str,
    per_device: int | None,
    threads: int,
    gpus: int,
    visible: str | None = None,
    per_run: int = 1,
    mps: bool = False,
) -> list[Slot]:
    """Turn `--devices` and `--per-device` into slots.

    Args:
        devices: `auto` (every NVIDIA GPU, else the CPU: nobody has tried MPS), `cpu`, `mps` (Apple's GPU), or GPU
            numbers such as `0,1`, as this process counts them.
        per_device: runs at a time on each device; None: 1 on a GPU, and on the CPU one for every `threads` cores.
        threads: CPU threads of each process of a run.
        gpus: GPUs that torch sees.
        visible: CUDA_VISIBLE_DEVICES of this process, which numbers its GPUs; None where it is not set.
        per_run: devices that a run takes at once; GPUs beyond a multiple of it stay idle. On the CPU, processes.
        mps: whether there is an Apple GPU.

    Returns:
        The slots; those of one round over all devices come first, so that few runs spread over many devices.

    Raises:
        UsageError: an unknown or absent device, or a number below 1.
    """
    check_request(devices, per_device, threads, per_run)
    there = f"this machine has {gpus} GPU{'s' * (gpus != 1)}{', an Apple GPU' * mps} and its CPU"
    if devices == "cpu" or (devices == "auto" and gpus == 0):
        # No GPU is visible to a run on the CPU.
        count = per_device or max(1, cores() // (threads * per_run))
        return [Slot("cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})] * count
    if devices == "mps":
        if not mps:
            raise UsageError(f"--devices mps needs an Apple GPU that torch can use: {there}")
        if per_run > 1:
            raise UsageError(f"--devices-per-run {per_run} needs as many GPUs; --devices mps gives 1")
        return [Slot("mps", "mps", {})] * (per_device or 1)
    numbers = range(gpus) if devices == "auto" else [int(number) for number in devices.split(",")]
    if absent := [number for number in numbers if number >= gpus]:
        raise UsageError(f"there is no GPU {absent[0]}: {there}")
    # CUDA_VISIBLE_DEVICES in a child names physical GPUs (or their UUIDs), so our numbers go through our own variable.
    tokens = [token.strip() for token in visible.split(",")] if visible else [str(n) for n in range(gpus)]
    if len(numbers) < per_run:
        raise UsageError(f"--devices-per-run {per_run} needs as many GPUs; --devices {devices} gives {len(numbers)}")
    groups = [numbers[i : i + per_run] for i in range(0, len(numbers) - per_run + 1, per_run)]
    each = [
        Slot(f"gpu {'+'.join(map(str, group))}", "cuda", {"CUDA_VISIBLE_DEVICES": ",".join(tokens[n] for n in group)})
        for group in groups
    ]
    return each * (per_device or 1)


def check_request(devices: str, per_device: int | None, threads: int, per_run: int) -> None:
    """Check what can be checked before the devices of the machine are known; for the arguments see `make_slots`.

    Raises:
        UsageError: an unknown device, or a number below 1.
    """
    for name, value in (("--per-device", per_device), ("--threads-per-run", threads), ("--devices-per-run", per_run)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is out of range; give 1 or more")
    if devices in ("auto", "cpu", "mps"):
        return
    if not re.fullmatch(r"\d+(,\d+)*", devices):
        raise UsageError(f"unknown device {devices!r}; choose from: auto, cpu, mps, or GPU numbers such as 0,1")
    numbers = [int(number) for number in devices.split(",")]
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--devices {devices} names a GPU twice; for several runs on one GPU give --per-device")


def cores() -> int:
    """Cores that this process may use, where the system says so (macOS does not)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
