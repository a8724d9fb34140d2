"""A validation split: training images to test on, so that settings can be chosen without the test set."""

from collections import Counter
from dataclasses import replace

import numpy as np

from replicate.data.dataset import Dataset, Labels
from replicate.errors import UsageError


def hold_out(dataset: Dataset, number: int) -> Dataset:
    """Return the data set of a run that tests on training images. Its test images are not among them.

    Args:
        dataset: as loaded.
        number: how many training images become its test images; 0: none, and the data set stays as it is.

    Raises:
        UsageError: that is more than half of the training images.
    """
    if not number:
        return dataset
    chosen = held_out(dataset.train_labels, number)
    return replace(
        dataset,
        label=f"{dataset.label} ({number:,} validation images)",
        train_images=dataset.train_images[~chosen],
        train_labels=dataset.train_labels[~chosen],
        test_images=dataset.train_images[chosen],
        test_labels=dataset.train_labels[chosen],
    )


def held_out(labels: Labels, number: int) -> np.typing.NDArray[np.bool_]:
    """Choose training images, of each class in proportion, as a mask (N,). All runs have the same ones.

    Of a class, images at equal distances are chosen, so that no random numbers are needed and any order of the files is
    covered evenly. This is our choice.

    Args:
        labels: of the training images (N,).
        number: of images to choose.

    Raises:
        UsageError: that is more than half of the training images.
    """
    check_number(number, len(labels))
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label, share in _shares(labels, number).items():
        places = np.flatnonzero(labels == label)
        mask[places[(2 * np.arange(share) + 1) * len(places) // (2 * share)]] = True
    return mask


def check_number(number: int, images: int) -> None:
    """Check that so many of so many training images can be held out.

    Raises:
        UsageError: that is more than half of them.
    """
    if number > images // 2:
        problem = f"validation = {number} is more than half of the {images:,} training images"
        raise UsageError(f"{problem}; give 0 to {images // 2}")


def _shares(labels: Labels, number: int) -> dict[int, int]:
    """Divide a number among the classes in proportion, by the largest remainders."""
    classes = sorted(Counter(labels.tolist()).items())
    shares = {label: number * count // len(labels) for label, count in classes}
    # A class gives its last training image only if no other can give one.
    by_remainder = sorted(classes, key=lambda one: (one[1] - shares[one[0]] < 2, -(number * one[1] % len(labels))))
    for label, _ in by_remainder[: number - sum(shares.values())]:
        shares[label] += 1
    return shares
