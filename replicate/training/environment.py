"""The process that trains: its threads, its arithmetic, and what a record says of the code and the machine."""

import os
import platform
import warnings
from functools import cache
from typing import Any

import torch

from replicate import nvidia_mps, provenance
from replicate.options import Options

# Where one of these is set, oneDNN and MKL take other kernels than the processor would have them take.
OVERRIDES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")  # with these cuBLAS gives the same bits twice


def configure(options: Options) -> None:
    """Set what holds for the whole process; on a GPU before anything touches CUDA.

    Float32 is float32: no TF32 in convolutions (torch's default) nor in matrix products. Where the options are strict,
    the same run gives the same bits: torch takes deterministic kernels alone, and an operation without one raises.
    The nets have none: `max_pool2d` over windows that do not overlap, `nll_loss` over one axis, and indices that are
    read (the crops) or not differentiated are not on torch's list (`torch.use_deterministic_algorithms`).
    """
    if options.device == "cuda":
        _uses_nvidia_mps()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(options.strict)
    # Every tensor that is yet to be filled would be filled with NaN first, for finding bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
    torch.backends.cudnn.deterministic = options.strict
    if options.strict:
        torch.backends.cudnn.benchmark = False  # it picks kernels by the clock
        if os.environ.get(WORKSPACE) not in FIXED_WORKSPACES:
            os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
    # Lightning advises DataLoader workers; here the whole set lies on the device.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def environment_record(options: Options, step: str = "eager") -> dict[str, Any]:
    """What carries out this call, by key of the record: commit, dirty, versions, device and environment.

    The environment is what torch has in effect, and what selects its kernels.

    Args:
        options: of the run.
        step: how its iterations are made; named where it is not one operation after another.
    """
    cuda = options.device == "cuda"
    commit, dirty = options.commit or provenance.commit()
    environment: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": provenance.cpu_name(),  # beside a GPU too: weights are drawn on the CPU
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **({"processes": options.devices_per_run} if options.devices_per_run > 1 else {}),
        **({"step": step} if step != "eager" else {}),
        **{name: os.environ[name] for name in OVERRIDES if name in os.environ},
    }
    if cuda:
        environment["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        # It may show CUDA a part of the GPU only, for which libraries choose other kernels.
        environment |= {"nvidia_mps": True} if _uses_nvidia_mps() else {}
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": provenance.versions() | ({"cuda": torch.version.cuda} if torch.version.cuda else {}),
        "device": _device(options.device),
        "environment": environment,
    }


@cache
def _uses_nvidia_mps() -> bool:
    """Whether this process uses its GPU through NVIDIA's MPS: settled when CUDA starts, so the first answer holds."""
    return nvidia_mps.daemon_runs(os.environ)


def _device(kind: str) -> str:
    if kind == "cuda":
        try:
            return torch.cuda.get_device_name()
        except (RuntimeError, AssertionError):  # CUDA cannot start: the record of that failure names no GPU
            return "cuda"
    return f"{provenance.cpu_name()} (MPS)" if kind == "mps" else provenance.cpu_name()
