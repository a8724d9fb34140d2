"""What the matrix must know before it starts and cannot learn without torch: the devices and the data at hand."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from replicate.data.sources import load


def survey(
    datasets: Iterable[str], data_dir: Path, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Look for the devices that this process sees, and read each data set once, so that it is there for every run.

    Args:
        datasets: as in a Run's `dataset`.
        data_dir: where they are found, and downloaded to.
        progress: called with the images decoded and those to decode in all.

    Returns:
        The arguments of plan.Survey.

    Raises:
        UsageError: unknown or unreadable data set, or a download that failed.
    """
    fingerprints, test_images = {}, {}
    for name in datasets:
        dataset = load(name, data_dir, progress)
        fingerprints[name], test_images[name] = dataset.fingerprint, len(dataset.test_labels)
    return {
        "gpus": torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "fingerprints": fingerprints,
        "test_images": test_images,
    }
