"""The data sets `folder:NAME`: images in `DATA_DIR/NAME/{train,test}/<class>/<file>`, decoded once per machine."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageFile, features

from replicate.data.cache import Entry, get_or_create
from replicate.data.dataset import Dataset, Images, Labels, Progress, fingerprint
from replicate.errors import UsageError
from replicate.names import CIFAR_SHAPE, MNIST_SHAPE
from replicate.store.files import read_bytes

SPLITS = ("train", "test")
HIDDEN = ("thumbs.db", "desktop.ini")  # hidden files of Windows, whose users never see them
LAYOUT = "images belong in {train,test}/<class>/<file>, and nothing else belongs there"
PLAIN = "save it as one picture in grey or RGB, with 8 bits a channel and without transparency"
SIZES = "every image must be 32×32, as in CIFAR, or every one 28×28 and grey, as in MNIST"
CHANNELS = {shape[1:]: shape[0] for shape in (CIFAR_SHAPE, MNIST_SHAPE)}  # by height and width
MAX_BYTES = 4_000_000  # of an image file of so few pixels

SUFFIXES = (".png", ".jpg", ".jpeg")
CACHE_VERSION = 2  # raise it whenever the same files are decoded into other arrays, or are refused

# Labels that differ from the folder's name. CIFAR-10 stored as JPEG loses accuracy, so every table must show it.
LABELS = {"cifar10-jpeg": "CIFAR-10 (JPEG mirror)"}

Classes = dict[str, list[Path]]  # class -> image files, both sorted by name


def names(data_dir: Path) -> list[str]:
    """List the folders of a data directory that look like data sets: those that contain `train` and `test`."""
    return sorted(train.parent.name for train in data_dir.glob("*/train/") if train.with_name("test").is_dir())


def check_folder(folder: Path) -> None:
    """Check that the folder of a data set exists.

    Raises:
        UsageError: it does not; the message names the data sets next to it.
    """
    if not folder.is_dir():
        known = ", ".join(names(folder.parent)) or "no data set"
        raise UsageError(f"no data set {folder.name!r} in {folder.parent}, which contains: {known}; {LAYOUT}")


def files(folder: Path) -> dict[str, Classes]:
    """List the image files of a data set by split and class, in the order in which `load` returns the images.

    Raises:
        UsageError: the folder is missing or does not have this layout.
    """
    check_folder(folder)
    if found := {path.name for path in _visible(folder)} ^ set(SPLITS):
        raise UsageError(f"{folder / min(found)} is missing or does not belong to the data set; {LAYOUT}")
    tree = {split: {path.name: _images(path) for path in _visible(folder / split)} for split in SPLITS}
    train, test = (tree[split].keys() for split in SPLITS)
    if odd := ", ".join(sorted(train ^ test)):
        raise UsageError(f"{folder}: these classes have images in only one of train and test: {odd}; {LAYOUT}")
    if len(train) < 2:
        raise UsageError(f"{folder} has images of {len(train)} classes; at least two are needed; {LAYOUT}")
    return tree


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read a folder of images, from the cache if they have been decoded on this machine before.

    The key of the cache is made of the folder's real path and, as in git's index, of each file's relative name, inode,
    size, and times of modification and of change in nanoseconds. An image replaced by one of the same size and with the
    same modification time is noticed, because no program can set the time of change. (The device is left out: its
    number differs between hosts that share a disk.) Two folders never share an entry, even if one is a copy of the
    other; a link to a folder is the same folder. An entry replaces the folder's earlier one. Classes are numbered in
    the order of their names; the images of a class are in the order of their names.

    Args:
        dataset: `folder:NAME`.
        data_dir: its folder NAME contains `train` and `test`, each with one folder per class, each with PNG or JPEG
            images that 8-bit RGB can hold: all of 32×32 pixels, read as RGB, or all of 28×28 pixels and grey, read as
            one channel. Files whose name begins with a dot are ignored.
        progress: called now and then while images are being decoded, not when they come from the cache.

    Raises:
        UsageError: the folder is missing or does not have this layout, or a file is not such an image; names the
            culprit.
    """
    name = dataset.removeprefix("folder:")
    tree = files(data_dir / name)
    paths = [path for split in SPLITS for found in tree[split].values() for path in found]
    images, content = get_or_create(_key(data_dir / name, paths), lambda: _decode(paths, progress))
    train, test = _labels(tree["train"]), _labels(tree["test"])
    arrays = images[: len(train)], train, images[len(train) :], test
    return Dataset(LABELS.get(name, name), content, tuple(tree["train"]), *arrays)


def load_labels(dataset: str, data_dir: Path) -> tuple[Labels, Labels]:
    """Return the training and test labels that `load` gives, without decoding the images. Raises the same errors."""
    tree = files(data_dir / dataset.removeprefix("folder:"))
    return _labels(tree["train"]), _labels(tree["test"])


def _labels(classes: Mapping[str, Sequence[Path]]) -> Labels:
    return np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in classes.values()])


def _images(folder: Path) -> list[Path]:
    """List the images of a class."""
    images = _visible(folder)
    if odd := [path for path in images if not (path.suffix.lower() in SUFFIXES and path.is_file())]:
        raise UsageError(f"{odd[0]} is not a PNG or JPEG file; move it out of the data set")
    if not images:
        raise UsageError(f"{folder} has no image; add some, or remove the class from train and test")
    return images


def _visible(folder: Path) -> list[Path]:
    """List what is in a folder, sorted by name, without hidden files."""
    try:
        found = [path for path in folder.iterdir() if path.name[0] != "." and path.name.lower() not in HIDDEN]
    except OSError as error:
        raise UsageError(f"cannot list {folder} ({error.strerror}); {LAYOUT}") from None
    if odd := [path.name for path in found if "\n" in path.name]:
        # the fingerprint is made of lines, one per file
        raise UsageError(f"{folder} holds {odd[0]!r}, whose name has a line break; rename it")
    return sorted(found, key=lambda path: path.name)


def _relative(path: Path) -> str:
    """`split/class/file`."""
    return "/".join(path.parts[-3:])


def _key(folder: Path, paths: Sequence[Path]) -> str:
    # Another decoder may decode the same JPEG file into other pixels.
    lines = [f"{CACHE_VERSION} Pillow {PIL.__version__} libjpeg {features.version('jpg')}"]
    for path in paths:
        at = path.stat()
        lines.append(f"{_relative(path)}\0{at.st_ino} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns}")
    texts = (str(folder.resolve()), "\n".join(lines))
    place, content = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32] for text in texts)
    return f"{place}-{content}"


def _decode(paths: Sequence[Path], progress: Progress | None) -> Entry:
    """Read every file once; return the images (n, c, h, w) and the fingerprint of the files."""
    images = np.empty(0, dtype=np.uint8)
    lines = []
    # One thread: Pillow's work on an image this small holds Python's lock. For 10,000 JPEG files on two busy cores, two
    # threads took 1.2 to 1.35 times as long as one, and two processes 0.93 to 1.08 times, their start included.
    for done, path in enumerate(paths, start=1):
        pixels, digest = _decode_file(path)
        if done == 1:
            images = np.empty((len(paths), *pixels.shape), dtype=np.uint8)
        elif pixels.shape != images.shape[1:]:
            raise UsageError(f"{path} and {paths[0]} have different sizes; {SIZES}")
        images[done - 1] = pixels
        lines.append(f"{_relative(path)} {digest}")
        if progress is not None and (done % 500 == 0 or done == len(paths)):
            progress(done, len(paths))
    return images, fingerprint(lines)


def _decode_file(path: Path) -> tuple[Images, str]:
    """Return the pixels (c, h, w) of an image file and the sha256 of its bytes."""
    try:
        data = read_bytes(path, MAX_BYTES)
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            pixels = _pixels(image)
    except UsageError as error:
        raise UsageError(f"{path} {error}") from None
    except Exception as error:  # Pillow raises many kinds for a damaged file, SyntaxError among them
        raise UsageError(f"{path} cannot be read as an image ({error}); replace it or move it elsewhere") from None
    return pixels.transpose(2, 0, 1), hashlib.sha256(data).hexdigest()  # h w c -> c h w


def _pixels(image: ImageFile.ImageFile) -> Images:
    """Return the pixels (h, w, c) of an image of which they lose nothing.

    Raises:
        UsageError: it has another size, or would lose something. The message has no subject.
    """
    channels = CHANNELS.get((image.height, image.width))
    if channels is None:
        raise UsageError(f"is {image.width}×{image.height} pixels; {SIZES}")
    pixels = _rgb(image)
    if (pixels[..., channels:] != pixels[..., :1]).any():
        raise UsageError(f"has colours; {SIZES}")
    return pixels[..., :channels]


def _rgb(image: ImageFile.ImageFile) -> Images:
    """Return the pixels (h, w, 3) of an image of which 8-bit RGB loses nothing; raises as `_pixels`."""
    if (pictures := getattr(image, "n_frames", 1)) > 1:
        raise UsageError(f"holds {pictures} pictures; {PLAIN}")
    if image.mode == "CMYK":
        raise UsageError(f"has the colours CMYK; {PLAIN}")
    layout = str(image.tile[0][3])  # of the bytes in the file; the mode does not tell that RGB has 16 bits
    if ";16" in layout:
        raise UsageError(f"has 16 bits a channel; {PLAIN}")
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA"))
    # Pillow compares a transparent grey of 2 or 4 bits with pixels of 8 bits, and finds none.
    if layout in ("L;2", "L;4") or pixels[..., 3].min() < 255:
        raise UsageError(f"has transparent pixels; {PLAIN}")
    return pixels[..., :3]
