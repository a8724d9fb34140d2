"""What torch finds on this machine. For a process of its own: it touches CUDA."""

from collections.abc import Callable
from typing import Any

import torch


def probe(send: Callable[..., None]) -> dict[str, Any]:
    """Look at every device.

    Args:
        send: not used.

    Returns:
        Plain data, for a process without torch. `gpus`: name, bytes free, bytes in all, and what went wrong, else None;
        `cuda`: the version that torch was built for; `mps`: Apple's GPU; `capability`: the CPU's instructions in use.
    """
    return {
        "gpus": [_gpu(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "mps": torch.backends.mps.is_available(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _gpu(number: int) -> tuple[str, int, int, str | None]:
    name = "unknown"
    try:
        name = torch.cuda.get_device_name(number)
        free, total = torch.cuda.mem_get_info(number)
    except RuntimeError as error:  # one that is broken or taken must not hide the others
        return name, 0, 0, str(error).splitlines()[0]
    return name, free, total, None
