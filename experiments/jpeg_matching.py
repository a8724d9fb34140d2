"""Match images with exact pixels to their lossy copies, and make a data set of each. See jpeg_cost.py."""

import math
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from replicate.data import folder
from replicate.data.dataset import Images, Progress
from replicate.errors import UsageError

FACTOR = 2.0
"""The second-best copy's error must be more than this many times the best one's; on CIFAR-10, the minimum is 2.33."""


@dataclass(frozen=True, slots=True)
class Match:
    """An image and its nearest lossy copy, among those of its class and split.

    Args:
        split: `train` or `test`.
        kind: the class.
        exact: file with the exact pixels, named by the image's number in the official order of the split.
        copy: file of the copy, named by its number within the class.
        error: mean squared difference of the two over all values, in squared grey levels.
        second: the same for the second-best copy.
    """

    split: str
    kind: str
    exact: Path
    copy: Path
    error: float
    second: float

    @property
    def ratio(self) -> float:
        """The second-best copy's error, divided by the best one's."""
        return self.second / self.error if self.error else math.inf

    @property
    def clear(self) -> bool:
        """Whether the second-best copy is much worse. If both copies are without error, it is not."""
        return self.second > FACTOR * self.error

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the copy in dB."""
        return 10 * math.log10(255**2 / self.error) if self.error else math.inf


def match(exact: Path, copies: Path, progress: Progress | None = None) -> tuple[Match, ...]:
    """Find the copy of each image of a data set in another data set.

    Args:
        exact: folder of images with exact pixels, `{train,test}/<class>/<number>.png`.
        copies: folder of the copies, with at least two images in each of the same classes.
        progress: called with (images done, images in all) while a folder is decoded for the first time.

    Returns:
        The matches by split, class and name.

    Raises:
        UsageError: a folder is not a data set, the classes differ, a match is not clear, or two images have the same
            copy.
    """
    ours, theirs = (folder.load(path.name, path.parent, progress) for path in (exact, copies))
    if ours.classes != theirs.classes:
        raise UsageError(f"{exact} and {copies} have different classes: {ours.classes} and {theirs.classes}")
    files, names = folder.files(exact), folder.files(copies)
    splits = {
        "train": (ours.train_images, ours.train_labels, theirs.train_images, theirs.train_labels),
        "test": (ours.test_images, ours.test_labels, theirs.test_images, theirs.test_labels),
    }
    found = []
    for split, arrays in splits.items():
        for label, kind in enumerate(ours.classes):
            mine, copied = arrays[0][arrays[1] == label], arrays[2][arrays[3] == label]
            best = nearest(mine, copied)
            for file, index, error, second in zip(files[split][kind], *best, strict=True):
                found.append(Match(split, kind, file, names[split][kind][index], float(error), float(second)))
    _refuse_doubt(found)
    return tuple(found)


def nearest(
    images: Images, copies: Images
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the nearest copy of each image.

    Args:
        images: uint8 (n, …).
        copies: uint8 (m, …) with the same other axes, m >= 2.

    Returns:
        Three arrays (n,): index of the nearest copy, its mean squared error, and that of the second-nearest copy.
    """
    if len(copies) < 2:
        raise UsageError("a class has fewer than two copies, so there is no second-best copy to compare with")
    # |a - b|² = |a|² + |b|² - 2ab: whole numbers below 2**53, so exact in float64 and in any order of summation
    a, b = (part.reshape(len(part), -1).astype(np.float64) for part in (images, copies))
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T  # n m
    order = np.argpartition(squares, 1, axis=1)[:, :2]  # the nearest two, the nearest first
    best, second = np.take_along_axis(squares, order, axis=1).T / a.shape[1]
    return order[:, 0], best, second


def _refuse_doubt(found: Sequence[Match]) -> None:
    if doubtful := [one for one in found if not one.clear]:
        first = doubtful[0]
        raise UsageError(
            f"{len(doubtful)} images have no clear match; the first is {first.exact}: the second-best copy's error is "
            f"{first.second:.4g}, which is not more than {FACTOR:g} times the best one's, {first.error:.4g} "
            f"({first.copy}); move these images out of the data set"
        )
    owners: dict[Path, Path] = {}
    for one in found:
        if one.copy in owners:
            raise UsageError(f"{owners[one.copy]} and {one.exact} both match {one.copy}; remove one of them")
        owners[one.copy] = one.exact


def misnumbered(found: Iterable[Match]) -> list[Match]:
    """Check matches against the file names, which do not depend on the pixels.

    Images are named by their number in the official order, copies by their number within the class in the same order.
    Within a class, the copies' numbers therefore rise by one from image to image where the images' numbers have no gap,
    and across a gap by at least one and at most the gap. They start with 0 if the images' numbers do.

    Returns:
        The matches whose numbers contradict those of the previous match.

    Raises:
        UsageError: a file is not named by a number.
    """
    wrong = []
    for _, group in groupby(sorted(found, key=lambda one: one.split), key=lambda one: one.split):
        ordered = sorted(group, key=lambda one: _number(one.exact))
        # number less rank is constant between two gaps
        offset = {one: _number(one.exact) - rank for rank, one in enumerate(ordered)}
        for kind in sorted({one.kind for one in ordered}):
            mine = [one for one in ordered if one.kind == kind]
            if offset[mine[0]] == 0 and _number(mine[0].copy) != 0:
                wrong.append(mine[0])
            for before, one in pairwise(mine):
                step = _number(one.copy) - _number(before.copy)
                most = 1 if offset[one] == offset[before] else _number(one.exact) - _number(before.exact)
                if not 1 <= step <= most:
                    wrong.append(one)
    return wrong


def _number(file: Path) -> int:
    if not file.stem.isdecimal():
        raise UsageError(f"{file} is not named by a number, so its position in the official order is unknown")
    return int(file.stem)


def lay_out(found: Sequence[Match], exact: Path, copies: Path) -> None:
    """Make two data sets of the same images: one with the exact training images, the other with their copies.

    The files of a pair have the same name, and so the same position in the order of the images. The test images are
    exact in both. A folder that already contains exactly these files is not changed.

    Args:
        found: the matches.
        exact: folder to make for the exact images.
        copies: folder to make for the copies.

    Raises:
        UsageError: a folder exists and contains anything else.
    """
    for root, lossy in ((exact, False), (copies, True)):
        wanted = {}
        for one in found:
            source = one.copy if lossy and one.split == "train" else one.exact
            wanted[Path(one.split, one.kind, one.exact.stem + source.suffix)] = source
        if root.exists():
            existing = {path.relative_to(root): path.stat().st_size for path in root.rglob("*") if path.is_file()}
            if existing != {name: source.stat().st_size for name, source in wanted.items()}:
                raise UsageError(f"{root} contains other images than this data set; remove it")
            continue
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".part-") as name:
            part = Path(name) / root.name
            for target, source in wanted.items():
                (part / target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, part / target)  # with its time, so that a cache of decoded images stays valid
            part.rename(root)


def summary(found: Sequence[Match], copies: str) -> str:
    """Report in Markdown the number of matches, how clear they are, and the quality of the copies."""
    count = [sum(one.split == split for one in found) for split in folder.SPLITS]
    return (
        f"{count[0]:,} training and {count[1]:,} test images with exact pixels were matched to the image of their "
        f"class and split in `{copies}` with the smallest squared error. The second-best error is at least "
        f"{min(one.ratio for one in found):.2f} times as large; more than {FACTOR:g} times is required. The numbers "
        f"in the file names, which follow the official order, agree with every match. Mean PSNR of the copies: "
        f"{fmean(one.psnr for one in found):.1f} dB."
    )
