"""Dataset: the images, labels and identity of one data set, whatever its source."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Called with (images done, total images) while a data set is being decoded
Progress = Callable[[int, int], None]

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One data set in memory, or memory-mapped. The arrays are made read-only.

    Args:
        label: display name of the data set.
        fingerprint: sha256 of the content, see `fingerprint`.
        classes: names of the classes; a label is an index into them.
        train_images: uint8 (N, c, h, w): (N, 3, 32, 32), channels red, green, blue, as in the official CIFAR-10 files;
            or (N, 1, 28, 28), grey.
        train_labels: int64 (N,).
        test_images: as train_images.
        test_labels: as train_labels.
    """

    label: str
    fingerprint: str
    classes: tuple[str, ...]
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels

    def __post_init__(self) -> None:
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            array.flags.writeable = False  # like the memory maps of cached images, whatever the source

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image: channels, height, width."""
        return self.train_images.shape[1:]


def fingerprint(lines: Iterable[str]) -> str:
    """Return the sha256 (hexadecimal) over the sorted lines, each ended by a newline, in UTF-8.

    Args:
        lines: one per file, `split/class/file sha256-of-its-bytes`. Sorted by code points (`LC_ALL=C sort`).
    """
    # surrogateescape: a file name that is not valid UTF-8 is hashed as its bytes
    text = "".join(f"{line}\n" for line in sorted(lines))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
