"""Data: where images come from, how they are prepared, and the batches that a run sees."""

import contextlib
import re
from pathlib import Path

from replicate.data import cifar10, folder
from replicate.data.dataset import Dataset, Labels, Progress
from replicate.errors import UsageError, unknown
from replicate.names import DATASETS, resolve
from replicate.run import FOLDER


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Load a data set.

    Args:
        dataset: `cifar10`, `synthetic` or `folder:NAME`.
        data_dir: where data sets are found, and where they are downloaded to.
        progress: called with (images done, total images) while a folder is decoded for the first time.

    Raises:
        UsageError: the name is unknown, or the data is missing or damaged; one line that explains what to do.
    """
    key = "folder:NAME" if re.fullmatch(FOLDER, dataset) else dataset
    if key not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    loaded: Dataset = resolve(DATASETS[key])(dataset, data_dir, progress)
    return loaded


def load_test_labels(dataset: str, data_dir: Path) -> Labels:
    """Load the test labels of a data set. Images in a folder are not decoded. Arguments and errors as in `load`."""
    if re.fullmatch(FOLDER, dataset):
        return folder.load_test_labels(dataset, data_dir)
    return load(dataset, data_dir).test_labels


def labels_at_hand(dataset: str, data_dir: Path) -> Labels | None:
    """Load the test labels of a data set; None if they are missing or damaged, or need a download."""
    with contextlib.suppress(UsageError):
        if dataset != "cifar10" or cifar10.is_local(data_dir):
            return load_test_labels(dataset, data_dir)
    return None


def available(data_dir: Path) -> list[tuple[str, bool]]:
    """List the names that `dataset` can take, each with whether it needs no download."""
    folders = [(f"folder:{name}", True) for name in folder.names(data_dir) if re.fullmatch(FOLDER, f"folder:{name}")]
    return [("cifar10", cifar10.is_local(data_dir)), ("synthetic", True), *folders]
