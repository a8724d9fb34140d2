"""NVIDIA's MPS, the service through which processes use a GPU side by side. (torch's device `mps` is Apple's GPU.)"""

from collections.abc import Mapping
from pathlib import Path

import psutil

from replicate.store.files import read_bytes

PROGRAM = "nvidia-cuda-mps-control"
VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"  # where CUDA looks for the control daemon
DEFAULT = "/tmp/nvidia-mps"


def daemon_runs(environment: Mapping[str, str]) -> bool:
    """Whether the control daemon runs that CUDA connects a process to when it starts in it.

    A daemon that was killed leaves its folder and its socket behind, so its process is looked up. One whose processes
    cannot be seen from here, such as that of another container, is not found.

    Args:
        environment: of the process.
    """
    folder = Path(environment.get(VARIABLE, DEFAULT))
    try:
        daemon = psutil.Process(int(read_bytes(folder / f"{PROGRAM}.pid", max_bytes=100)))
        # Linux keeps 15 letters of a name. Another program may have the number of a daemon that is gone.
        return daemon.name().startswith(PROGRAM[:15]) and daemon.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return False
