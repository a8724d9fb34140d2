"""What torch and the driver find, and what that means."""

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from replicate import nvidia_mps, provenance
from replicate.doctor.finding import Finding, gib
from replicate.matrix.slots import cores

LEAST_GPU = 2 * 2**30  # bytes of a GPU's memory for one run at full width, a guess: a run on a CPU took 1.3 GiB
LEAST_MEMORY = 2 * 2**30  # bytes of memory for one run: 1.3 GiB were measured at a quarter of the width


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device as torch counts them.

    Args:
        name: of the model; of a MIG instance with its profile.
        free: bytes of its memory that nobody uses.
        total: bytes of its memory.
        trouble: what it answered instead of telling its memory, else None.
    """

    name: str
    free: int
    total: int
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What torch finds.

    Args:
        gpus: those that this process sees.
        cuda: version of CUDA that torch was built for; None: none.
        mps: whether torch could use Apple's GPU.
        capability: the processor's instructions that torch uses, such as AVX2.
    """

    gpus: tuple[Gpu, ...]
    cuda: str | None
    mps: bool
    capability: str

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Found":
        """Make it of what `training/probe.py` tells."""
        return cls(**{**told, "gpus": tuple(Gpu(*one) for one in told["gpus"])})


def gpus(found: Found, listed: Sequence[str], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Tell of the GPUs.

    Args:
        found: what torch sees.
        listed: the lines of `nvidia-smi -L`; none where there is no driver.
        environment: of this process.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    for number, gpu in enumerate(found.gpus):
        if gpu.trouble:
            mend = "see by nvidia-smi whether it is well and free, or name other GPUs by --devices"
            yield Finding("devices", f"gpu {number}: {gpu.name}: {gpu.trouble}", good=False, mend=mend)
            continue
        scarce = gpu.free < LEAST_GPU
        mend = "nvidia-smi shows who uses it; name other GPUs by --devices" if scarce else ""
        text = f"gpu {number}: {gpu.name}, {gib(gpu.free)} free of {gib(gpu.total)}"
        yield Finding("devices", text, good=False if scarce else None, mend=mend)
    if visible is not None:
        yield Finding("devices", f"CUDA_VISIBLE_DEVICES is {visible!r}")
    parts = [line for line in listed if line.startswith("MIG ")]
    if parts:
        mend = (
            "a process can use one of them: start the same command once for each, with CUDA_VISIBLE_DEVICES=MIG-…; "
            "the commands share OUT"
        )
        yield Finding("devices", f"the driver lists {len(parts)} MIG instances (nvidia-smi -L)", mend=mend)
    if not found.gpus and listed:
        text = f"the driver lists {sum(line.startswith('GPU ') for line in listed)} GPUs, torch sees none"
        yield Finding("devices", text, good=False, mend=_why_none(found, visible))
    elif not found.gpus:
        yield Finding("devices", "no NVIDIA GPU: runs go to the CPU, which does for `make smoke` and `make pilot`")
    if found.mps:
        text = "Apple's GPU found (MPS); --devices mps uses it; untested, so without that runs go to the CPU"
        yield Finding("devices", text)


def _why_none(found: Found, visible: str | None) -> str:
    if visible is not None:
        return "CUDA_VISIBLE_DEVICES hides them, or names none that is there; unset or mend it"
    if found.cuda is None:
        return "this torch was built without CUDA; install one that has it (pytorch.org says how)"
    return f"the driver may be too old for CUDA {found.cuda}, of which this torch is; update it, or take another torch"


def sharing(found: Found, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Tell whether runs can use a GPU side by side, through NVIDIA's MPS.

    Args:
        found: what torch sees.
        environment: of this process.
    """
    if not found.gpus:
        return
    if nvidia_mps.daemon_runs(environment):
        yield Finding("devices", "NVIDIA's MPS is running: runs on the same GPU (--per-device) use it side by side")
    elif shutil.which(nvidia_mps.PROGRAM, path=environment.get("PATH")):
        text = "NVIDIA's MPS is installed and not running: runs on the same GPU (--per-device) take turns"
        mend = f"if you use --per-device 2 or more, start it before the runs: {nvidia_mps.PROGRAM} -d"
        yield Finding("devices", text, mend=mend)
    else:
        text = f"NVIDIA's MPS is not installed ({nvidia_mps.PROGRAM} is not on PATH)"
        yield Finding("devices", f"{text}: runs on the same GPU (--per-device) take turns")


def cpu(found: Found) -> Iterator[Finding]:
    """Tell of the processor and the memory."""
    physical = psutil.cpu_count(logical=False) or 0
    text = f"cpu: {provenance.cpu_name()}, {found.capability}, {cores()} threads to use"
    yield Finding("devices", text + (f" ({physical} cores in the machine)" if physical else ""))
    memory = psutil.virtual_memory()
    scarce = memory.available < LEAST_MEMORY
    yield Finding(
        "devices",
        f"memory: {gib(memory.available)} free of {gib(memory.total)}",
        good=False if scarce else None,
        mend="a run takes about 1.3 GiB: end other programs, or lower --per-device" if scarce else "",
    )


def nvidia_smi() -> list[str]:
    """Lines of `nvidia-smi -L`, stripped: GPUs and MIG instances as the driver knows them; none without a driver."""
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines()]
