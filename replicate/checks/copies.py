"""Looks for images that are in both train and test, and for training images with two labels."""

import hashlib
from collections.abc import Iterator

from replicate.checks.common import Finding
from replicate.data.dataset import Dataset, Images
from replicate.report.text import count

SHARE = 0.001  # of the images: so few copies raise an accuracy by at most 0.1 points, and are only noted


def find_copies(dataset: Dataset) -> Finding:
    """Count the test images that are training images too, and the training images that have two labels.

    Images are equal if all their pixels are. CIFAR-10 is known to hold near duplicates, which are not counted.
    """
    labels, test_labels, names = dataset.train_labels, dataset.test_labels, dataset.classes
    first: dict[bytes, int] = {}  # digest of an image -> its first place in the training set
    earlier = [first.setdefault(digest, place) for place, digest in enumerate(_digests(dataset.train_images))]
    copied = [(place, first[digest]) for place, digest in enumerate(_digests(dataset.test_images)) if digest in first]
    two_labels = [(place, before) for place, before in enumerate(earlier) if labels[place] != labels[before]]

    text = f"{len(copied):,} of {count(len(test_labels), 'test image')} are training images too"
    if copied:
        test, train = copied[0]
        text += (
            f", such as test image {test} ({names[test_labels[test]]}), training image {train} ({names[labels[train]]})"
        )
    text += f"; {len(two_labels):,} of {count(len(labels), 'training image')} have a second label"
    if two_labels:
        text += ", such as training images " + " and ".join(
            f"{place} ({names[labels[place]]})" for place in two_labels[0]
        )
    many = len(copied) > SHARE * len(test_labels) or len(two_labels) > SHARE * len(labels)
    return Finding("failed" if many else "note" if copied or two_labels else "ok", text)


def _digests(images: Images) -> Iterator[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
