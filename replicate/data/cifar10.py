"""The data set `cifar10`: the official archive, downloaded once, checked by MD5 and read."""

import hashlib
import os
import pickle
import socket
import tempfile
from http.client import HTTPException
from pathlib import Path

import numpy as np

from replicate.data import cache
from replicate.data.dataset import SIDE, Dataset, Progress, fingerprint
from replicate.errors import UsageError
from replicate.store.files import read_bytes

# As in torchvision.datasets.CIFAR10. Written out, because importing torchvision takes longer than reading the files.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
ARCHIVE, ARCHIVE_MD5 = "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
FOLDER = "cifar-10-batches-py"
META, META_MD5 = "batches.meta", "5ff9c542aee3614f3951f8cda6e48888"
# Split and file -> MD5, in the order of the images; the last one is the test set
BATCHES = {
    "train/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "train/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "train/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "train/data_batch_4": "634d18415352ddfa80567beed471001a",
    "train/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test/test_batch": "40351d587109b95175f43aff81a1287e",
}

SILENT_SECONDS = 60.0  # of a server, after which a download fails
MAX_BYTES = 50_000_000  # of a file of 10,000 images, which has 31,000,000


def is_local(data_dir: Path) -> bool:
    """Return whether CIFAR-10 is in `data_dir` already, so that it needs no download."""
    return (data_dir / FOLDER).is_dir() or (data_dir / ARCHIVE).is_file()


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read CIFAR-10; unpack or download it first if it is missing.

    A folder `cifar-10-batches-py` or an archive `cifar-10-python.tar.gz` that is in `data_dir` already is used. Where
    nothing can be written there, the archive is unpacked in the cache. The fingerprint is over the lines
    `train/data_batch_1 sha256(bytes)` to `test/test_batch sha256(bytes)`, one per file that contains images.

    Args:
        dataset: not used; all data sets are loaded with the same arguments.
        data_dir: where the data is, or will be.
        progress: not used.

    Raises:
        UsageError: the download failed, or a file is missing or is not the official one.
    """
    lines, batches = [], []
    try:
        folder = _unpacked(data_dir)
        classes = pickle.loads(_read(folder / META, META_MD5), encoding="latin1")["label_names"]
        for name, md5 in BATCHES.items():
            content = _read(folder / Path(name).name, md5)
            lines.append(f"{name} {hashlib.sha256(content).hexdigest()}")
            batches.append(pickle.loads(content, encoding="latin1"))
    except OSError as error:
        raise UsageError(f"cannot put CIFAR-10 into {data_dir} or read it ({error}); name another --data-dir") from None
    images = [batch["data"].reshape(-1, 3, SIDE, SIDE) for batch in batches]  # n c·h·w -> n c h w
    labels = [np.array(batch["labels"], dtype=np.int64) for batch in batches]
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return Dataset("CIFAR-10", fingerprint(lines), tuple(classes), *train, images[-1], labels[-1])


def _read(path: Path, md5: str) -> bytes:
    """Read an official file. It is a pickle: what is unpickled must be the same bytes that were checked."""
    content = read_bytes(path, MAX_BYTES) if path.exists() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UsageError(f"{path} is missing or is not the official file; delete {path.parent} and try again")
    return content


def _unpacked(data_dir: Path) -> Path:
    archive = data_dir / ARCHIVE
    try:
        return _in_place(archive, data_dir)
    except OSError:
        if not archive.is_file():
            raise
        return _in_place(archive, cache.folder())  # `data_dir` cannot be written


def _in_place(archive: Path, place: Path) -> Path:
    folder = place / FOLDER
    if not folder.is_dir():
        with cache.folder_lock(place):
            if not folder.is_dir():  # another process may have been faster
                _install(archive, place)
    return folder


def _install(archive: Path, place: Path) -> None:
    """Put the folder into a place, and the archive if it is missing; each appears only when it is complete."""
    from torchvision.datasets.utils import check_integrity, download_url, extract_archive

    with tempfile.TemporaryDirectory(dir=place, prefix=".cifar10-") as temporary:
        if not archive.exists():
            before = socket.getdefaulttimeout()
            try:
                socket.setdefaulttimeout(SILENT_SECONDS)  # for torchvision has none
                download_url(URL, temporary, ARCHIVE, ARCHIVE_MD5)  # its progress bar goes to stderr
            except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: the MD5 is wrong
                raise UsageError(
                    f"cannot download CIFAR-10 from {URL} ({' '.join(str(error).split())}): put {ARCHIVE} or "
                    f"the folder {FOLDER} into {place}, name the folder that holds it with --data-dir, or use other "
                    "data with --set dataset=synthetic or --set dataset=folder:NAME"
                ) from None
            finally:
                socket.setdefaulttimeout(before)
            os.replace(Path(temporary, ARCHIVE), archive)
        elif not check_integrity(archive, ARCHIVE_MD5):
            raise UsageError(f"{archive} is not the official archive; delete it and try again")
        extract_archive(archive, temporary)
        try:
            os.rename(Path(temporary, FOLDER), place / FOLDER)
        except OSError:
            if not (place / FOLDER).is_dir():  # where folders cannot be locked, another process may have been faster
                raise
