"""Data sets by name: the one place where `Run.dataset` becomes images."""

import re
from collections.abc import Callable
from pathlib import Path

from replicate.data import cifar10, folder, synthetic
from replicate.data.dataset import Dataset, Labels, Progress
from replicate.errors import UsageError, unknown
from replicate.run import DATASETS, FOLDER

LABELS = {
    # CIFAR-10 re-encoded as JPEG loses accuracy; no table may pass it off as CIFAR-10, nor hide what it is.
    "cifar10-jpeg": "CIFAR-10 (JPEG mirror)",
}
"""Labels of folders that are to be called otherwise than by their name."""


def _folder(dataset: str, data_dir: Path, progress: Progress | None) -> Dataset:
    name = dataset.removeprefix("folder:")
    return folder.read(data_dir / name, LABELS.get(name, name), progress)


SOURCES: dict[str, Callable[[str, Path, Progress | None], Dataset]] = {
    "cifar10": lambda dataset, data_dir, progress: cifar10.read(data_dir),
    "synthetic": lambda dataset, data_dir, progress: synthetic.draw(),
    "folder:NAME": _folder,
}
"""Keyed by `replicate.run.DATASETS`."""


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Load a data set.

    Args:
        dataset: `cifar10`, `synthetic` or `folder:NAME`.
        data_dir: where data sets are found, and downloaded to.
        progress: called with (images done, images in all) while a folder is decoded for the first time.

    Raises:
        UsageError: unknown name, or data that is missing or damaged; one line that says what to do.
    """
    key = "folder:NAME" if dataset.startswith("folder:") else dataset
    if key not in SOURCES or (key == "folder:NAME" and not re.fullmatch(FOLDER, dataset)):
        raise unknown("dataset", dataset, DATASETS)
    return SOURCES[key](dataset, data_dir, progress)


def load_test_labels(dataset: str, data_dir: Path) -> Labels:
    """Load the test labels of a data set; a folder's images are not decoded. Arguments and errors as of `load`."""
    if re.fullmatch(FOLDER, dataset):
        return folder.read_test_labels(data_dir / dataset.removeprefix("folder:"))
    return load(dataset, data_dir).test_labels


def labels_at_hand(dataset: str, data_dir: Path) -> Labels | None:
    """Load the test labels of a data set; None if it would have to be downloaded, is missing or damaged."""
    if dataset == "cifar10" and not cifar10.present(data_dir):
        return None
    try:
        return load_test_labels(dataset, data_dir)
    except UsageError:
        return None


def available(data_dir: Path) -> list[tuple[str, bool]]:
    """List the names that `dataset` can take, each with whether it can be had without a download."""
    folders = [(f"folder:{name}", True) for name in folder.names(data_dir) if re.fullmatch(FOLDER, f"folder:{name}")]
    return [("cifar10", cifar10.present(data_dir)), ("synthetic", True), *folders]
