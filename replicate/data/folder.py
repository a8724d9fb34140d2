"""The data sets `folder:NAME`: images in `DATA_DIR/NAME/{train,test}/<class>/<file>`, decoded once a machine."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, features

from replicate.data import cache
from replicate.data.dataset import SIDE, Dataset, Images, Labels, Progress, fingerprint
from replicate.errors import UsageError
from replicate.store.files import read_bytes

SPLITS = ("train", "test")
SUFFIXES = (".png", ".jpg", ".jpeg")
HIDDEN = ("thumbs.db", "desktop.ini")  # hidden files of Windows, whose users never see them
FORM = "images belong in {train,test}/<class>/<file>"
MOST_BYTES = 4_000_000  # of an image file of 32×32 pixels
CACHE_VERSION = 1
"""To be raised whenever the same files come to be decoded into other arrays."""

Tree = dict[str, dict[str, list[os.DirEntry[str]]]]
"""split -> class -> files, all sorted by name."""


def names(data_dir: Path) -> list[str]:
    """Name the folders of a data directory that look like data sets: those with `train` and `test` in them."""
    if not data_dir.is_dir():
        return []
    return sorted(path.name for path in data_dir.iterdir() if all((path / split).is_dir() for split in SPLITS))


def files(folder: Path) -> dict[str, dict[str, list[Path]]]:
    """Name the image files of a data set, by split and class, in the order in which `read` gives the images.

    Raises:
        UsageError: the folder is missing or not of this form.
    """
    return {
        split: {kind: [Path(file.path) for file in found] for kind, found in kinds.items()}
        for split, kinds in _list(folder).items()
    }


def read(folder: Path, label: str, progress: Progress | None = None) -> Dataset:
    """Read a folder of images, from the cache if they have been decoded on this machine before.

    The cache is found by the listing: relative names, sizes and modification times in nanoseconds, the way git's index
    knows unchanged files. An image replaced by one of equal size under the same time stamp goes unnoticed.
    Classes are numbered by their sorted names; images keep the order of their sorted names within the class.

    Args:
        folder: holds `train` and `test`, in each a folder a class, in each PNG or JPEG images of 32×32 pixels. Dotfiles
            are ignored.
        label: name of the data set for people.
        progress: called now and then while images are being decoded, not when they come from the cache.

    Raises:
        UsageError: the folder is missing or not of this form, or a file is no image; names the culprit.
    """
    tree = _list(folder)
    classes = _classes(folder, tree)
    # Another decoder may yield other pixels for the same JPEG file.
    decoder = f"{CACHE_VERSION} Pillow {PIL.__version__} libjpeg {features.version('jpg')}"

    def make() -> tuple[str, Images, cache.Facts]:
        images, content = _decode(tree, progress)
        return hashlib.sha256(f"{decoder}\n{content}".encode()).hexdigest(), images, {"fingerprint": content}

    images, facts = cache.remember(_key(decoder, tree), make)
    train, test = (_labels(tree, split, classes) for split in SPLITS)
    return Dataset(label, facts["fingerprint"], classes, images[: len(train)], train, images[len(train) :], test)


def read_test_labels(folder: Path) -> Labels:
    """The test labels that `read` gives, without decoding the images. Raises as `read`."""
    tree = _list(folder)
    return _labels(tree, "test", _classes(folder, tree))


def _labels(tree: Tree, split: str, classes: tuple[str, ...]) -> Labels:
    return np.repeat(np.arange(len(classes), dtype=np.int64), [len(tree[split][name]) for name in classes])


def _list(folder: Path) -> Tree:
    if not folder.is_dir():
        known = ", ".join(names(folder.parent)) or "no data set"
        raise UsageError(f"no data set {folder.name!r} in {folder.parent}, which holds: {known}; {FORM} below it")
    splits = {entry.name: entry for entry in _visible(folder)}
    if missing := [split for split in SPLITS if split not in splits]:
        raise UsageError(f"{folder} has no folder {missing[0]!r}; {FORM}")
    if odd := [name for name in splits if name not in SPLITS]:
        raise UsageError(f"{folder / odd[0]} does not belong to the data set; {FORM}, so move it elsewhere")
    tree: Tree = {split: {} for split in SPLITS}
    for split in SPLITS:
        for kind in _visible(splits[split].path):
            if not _is(kind.is_dir):
                raise UsageError(f"{kind.path} is not in the folder of a class; {FORM}")
            files = _visible(kind.path)
            for file in files:
                if not (file.name.lower().endswith(SUFFIXES) and _is(file.is_file)):
                    raise UsageError(f"{file.path} is not a PNG or JPEG file; move it out of the data set")
            if not files:
                raise UsageError(f"{kind.path} holds no image; add some, or remove the class from train and test")
            tree[split][kind.name] = files
    return tree


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself
        return False


def _visible(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in HIDDEN]
    except OSError as error:
        raise UsageError(f"cannot list {folder} ({error.strerror}); {FORM}") from None
    if odd := [entry.name for entry in kept if "\n" in entry.name]:
        # the fingerprint is over lines, one a file
        raise UsageError(f"{folder} holds {odd[0]!r}, whose name has a line break; rename it")
    return sorted(kept, key=lambda entry: entry.name)


def _classes(folder: Path, tree: Tree) -> tuple[str, ...]:
    train, test = (set(tree[split]) for split in SPLITS)
    if odd := sorted(train ^ test):
        there, lacking = SPLITS if odd[0] in train else SPLITS[::-1]
        raise UsageError(f"{folder}: class {odd[0]!r} is in {there} but not in {lacking}; both need the same classes")
    if len(train) < 2:
        raise UsageError(f"{folder} holds {len(train)} classes; to classify takes at least two; {FORM}")
    return tuple(sorted(train))


def _files(tree: Tree) -> list[tuple[str, os.DirEntry[str]]]:
    """Flatten the tree to (`split/class/file`, entry), train before test."""
    return [
        (f"{split}/{kind}/{file.name}", file)
        for split in SPLITS
        for kind, files in tree[split].items()
        for file in files
    ]


def _key(decoder: str, tree: Tree) -> str:
    key = hashlib.sha256(decoder.encode())
    for name, file in _files(tree):
        status = file.stat()
        key.update(f"\n{name}\0{status.st_size}\0{status.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return key.hexdigest()


def _decode(tree: Tree, progress: Progress | None) -> tuple[Images, str]:
    """Read every file once; return the images (n, 3, 32, 32) and the fingerprint of the files."""
    files = _files(tree)
    images = np.empty((len(files), 3, SIDE, SIDE), dtype=np.uint8)
    lines = []
    # One thread: Pillow's work on an image this small holds Python's lock. For 10,000 JPEG files on two busy cores, two
    # threads took 1.2 to 1.35 times as long as one, and two processes 0.93 to 1.08 times, their start included.
    for index, (name, file) in enumerate(files):
        images[index], digest = _image(file.path)
        lines.append(f"{name} {digest}")
        if progress is not None and ((index + 1) % 500 == 0 or index + 1 == len(files)):
            progress(index + 1, len(files))
    return images, fingerprint(lines)


def _image(path: str) -> tuple[Images, str]:
    """Decode one file; return the pixels (3, 32, 32) and the sha256 of its bytes."""
    try:
        data = read_bytes(Path(path), MOST_BYTES)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            size = image.size
            pixels = np.asarray(image.convert("RGB")) if size == (SIDE, SIDE) else None
    except Exception as error:  # Pillow raises many kinds for a damaged file, SyntaxError among them
        raise UsageError(f"{path} cannot be read as an image ({error}); replace it, in train and test alike") from None
    if pixels is None:
        raise UsageError(f"{path} is {size[0]}×{size[1]} pixels; every image must be {SIDE}×{SIDE}, as CIFAR's are")
    return pixels.transpose(2, 0, 1), hashlib.sha256(data).hexdigest()  # h w c -> c h w
