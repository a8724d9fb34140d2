"""Data: where images come from, how they are prepared, and the batches that a run sees."""

import contextlib
import re
from pathlib import Path

from replicate.data import cifar, folder, mnist
from replicate.data.dataset import Dataset, Labels, Progress
from replicate.data.validation import held_out, hold_out
from replicate.errors import UsageError, unknown
from replicate.names import DATASETS, resolve
from replicate.run import FOLDER, Run


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Load a data set.

    Args:
        dataset: `cifar10`, `cifar100`, `mnist`, `synthetic` or `folder:NAME`.
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


def load_for(run: Run, data_dir: Path) -> Dataset:
    """Load the images that a run trains and is tested on: of its data set, and divided as its `validation` says.

    Raises:
        UsageError: as `load`, or there are too few training images, or the model takes others.
    """
    dataset = load(run.dataset, data_dir)
    run.check_images(dataset.shape)
    return hold_out(dataset, run.validation)


def load_test_labels(dataset: str, validation: int, data_dir: Path) -> Labels:
    """Load the labels of the images that runs are tested on. Images in a folder are not decoded.

    Args:
        dataset: as in a Run.
        validation: as in a Run.
        data_dir: as in `load`.

    Raises:
        UsageError: as `load_for`.
    """
    if re.fullmatch(FOLDER, dataset):
        train, test = folder.load_labels(dataset, data_dir)
    else:
        loaded = load(dataset, data_dir)
        train, test = loaded.train_labels, loaded.test_labels
    return train[held_out(train, validation)] if validation else test


def labels_at_hand(dataset: str, validation: int, data_dir: Path) -> Labels | None:
    """Do as `load_test_labels`, but return None if the labels are missing or damaged, or need a download."""
    with contextlib.suppress(UsageError):
        if is_local(dataset, data_dir):
            return load_test_labels(dataset, validation, data_dir)
    return None


def is_local(dataset: str, data_dir: Path) -> bool:
    """Return whether a data set needs no download. (A folder may be missing all the same.)"""
    if dataset in cifar.RELEASES:
        return cifar.is_local(dataset, data_dir)
    return dataset != "mnist" or mnist.is_local(data_dir)


def official_files(dataset: str) -> str:
    """Say what a user without a network puts into the data directory, for a data set that is downloaded."""
    return cifar.RELEASES[dataset].archive if dataset in cifar.RELEASES else f"{mnist.FOLDER}/*.gz"


def available(data_dir: Path) -> list[tuple[str, bool]]:
    """List the names that `dataset` can take, each with whether it needs no download."""
    folders = [(f"folder:{name}", True) for name in folder.names(data_dir) if re.fullmatch(FOLDER, f"folder:{name}")]
    return [*((name, is_local(name, data_dir)) for name in DATASETS if ":" not in name), *folders]
