"""What the matrix must know before it starts and cannot learn without torch: the devices and the data at hand."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from replicate.data.sources import load


def survey(
    datasets: Iterable[str], data_dir: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[int, dict[str, str]]:
    """Count the GPUs that this process sees, and read each data set once, so that it is there for every run.

    Args:
        datasets: as in a Run's `dataset`.
        data_dir: where they are found, and downloaded to.
        progress: called with the images decoded and those to decode in all.

    Returns:
        The number of GPUs, and each data set's fingerprint.

    Raises:
        UsageError: unknown or unreadable data set, or a download that failed.
    """
    return torch.cuda.device_count(), {name: load(name, data_dir, progress).fingerprint for name in datasets}
