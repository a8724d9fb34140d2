"""The machine and the process: what torch finds, how it computes, and what a record holds of both."""

import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from replicate import nvidia_mps, provenance
from replicate.data import load
from replicate.options import Options
from replicate.plugins import Plugin
from replicate.plugins import load as load_plugin
from replicate.store.fields import as_line

# If one of these is set, oneDNN and MKL do not choose their kernels by the processor.
OVERRIDES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED_WORKSPACES = (":4096:8", ":16:8")  # with these cuBLAS gives the same bits twice


def survey(
    datasets: Iterable[str],
    data_dir: Path,
    plugins: Iterable[Plugin] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Look for the devices that this process sees, load the plugins, and read each data set once, to have it prepared.

    For a process of its own, because it touches CUDA.

    Args:
        datasets: as in a Run's `dataset`.
        data_dir: where they are found, and downloaded to.
        plugins: are loaded once, so that one that fails is refused before any run.
        progress: called with the number of images decoded so far and the number of all.

    Returns:
        The arguments of plan.Survey.

    Raises:
        UsageError: unknown or unreadable data set, a download that failed, or a plugin that cannot be loaded.
    """
    for plugin in plugins:
        load_plugin(plugin)
    fingerprints, shapes, train_images, test_images = {}, {}, {}, {}
    terminate = signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that an incomplete download is removed
    try:
        for name in datasets:
            dataset = load(name, data_dir, progress)
            fingerprints[name], shapes[name] = dataset.fingerprint, dataset.shape
            train_images[name], test_images[name] = len(dataset.train_labels), len(dataset.test_labels)
    finally:
        signal.signal(signal.SIGTERM, terminate)
    return {
        "gpus": torch.cuda.device_count(),
        "fingerprints": fingerprints,
        "shapes": shapes,
        "train_images": train_images,
        "test_images": test_images,
        "sources": provenance.code().sources,
    }


def probe(send: Callable[..., None]) -> dict[str, Any]:
    """Look at every device. For a process of its own, because it touches CUDA.

    Args:
        send: not used.

    Returns:
        Plain data, for a process without torch. `gpus`: of each its name, bytes free, bytes in total, and its error or
        None; `cuda`: the version that torch was built for; `capability`: the CPU instructions that torch uses.
    """
    return {
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _gpu(number: int) -> tuple[str, int, int, str | None]:
    name = "unknown"
    try:
        name = torch.cuda.get_device_name(number)
        return name, *torch.cuda.mem_get_info(number), None
    except RuntimeError as error:  # a GPU that is broken or taken must not hide the others
        return name, 0, 0, str(error).splitlines()[0]


def configure(options: Options) -> None:
    """Set torch's threads and arithmetic for the whole process; on a GPU, before anything touches CUDA.

    Float32 is float32: no TF32, neither in convolutions (torch's default) nor in matrix products. If `options.strict`,
    the same run gives the same bits: torch uses only deterministic kernels, and an operation without one raises.
    Our networks have no such operation: `max_pool2d`, `nll_loss` over one axis, and indices that are only read (the
    crops) or not differentiated are not in the list of `torch.use_deterministic_algorithms`.
    """
    if options.device == "cuda":
        _uses_nvidia_mps()
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(options.strict)
    # Otherwise torch fills every new tensor with NaN first, which helps only to find bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module
    torch.backends.cudnn.deterministic = options.strict
    if options.strict:
        torch.backends.cudnn.benchmark = False  # it chooses kernels by measured time
        if os.environ.get(WORKSPACE) not in FIXED_WORKSPACES:
            os.environ[WORKSPACE] = FIXED_WORKSPACES[0]
    # Lightning recommends DataLoader workers; here the whole data set is on the device.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def environment_record(options: Options, step: str = "eager") -> dict[str, Any]:
    """Describe the code and the machine: the fields commit, dirty, sources, versions, device, environment of a Result.

    The environment holds the settings that are in effect in torch, and what selects its kernels.

    Args:
        options: of the run.
        step: name of the way in which iterations are made; recorded unless it is `eager`.
    """
    environment: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": provenance.cpu_name(),  # also on a GPU: the initial weights are drawn on the CPU
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **({"processes": options.devices_per_run} if options.devices_per_run > 1 else {}),
        **({"step": step} if step != "eager" else {}),
        **{name: as_line(os.environ[name]) for name in OVERRIDES if name in os.environ},
    }
    if options.device == "cuda":
        environment["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        if _uses_nvidia_mps():  # it can limit a process to a part of the GPU, for which libraries choose other kernels
            environment["nvidia_mps"] = True
    return {
        **asdict(provenance.code()),
        "versions": provenance.versions() | ({"cuda": torch.version.cuda} if torch.version.cuda else {}),
        "device": provenance.cpu_name() if options.device == "cpu" else _gpu_name(),
        "environment": environment,
    }


@cache
def _uses_nvidia_mps() -> bool:
    """Whether this process uses its GPU through NVIDIA's MPS. That is decided when CUDA starts, hence the cache."""
    return nvidia_mps.daemon_runs(os.environ)


def _gpu_name() -> str:
    try:
        return as_line(torch.cuda.get_device_name())
    except (RuntimeError, AssertionError):  # CUDA cannot start: the record of that failure names no GPU
        return "cuda"
