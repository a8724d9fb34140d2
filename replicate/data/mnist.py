"""The data set `mnist`: the four official files, downloaded once, checked by MD5 and read."""

import gzip
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np

from replicate.data import cache
from replicate.data.dataset import Dataset, Progress, fingerprint
from replicate.data.download import download, read_official
from replicate.errors import UsageError
from replicate.names import MNIST_SHAPE

URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
FOLDER = "MNIST/raw"  # in DATA_DIR, where torchvision puts them too
# Split and file -> MD5, as torchvision has them. Written out here, because importing torchvision takes seconds.
FILES = {
    "train/train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train/train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "test/t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "test/t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
IMAGES_START, LABELS_START = 16, 8  # bytes of the IDX headers: a magic number, and the size of each axis


def is_local(data_dir: Path) -> bool:
    """Return whether all files are in `data_dir` already, so that nothing needs a download."""
    return not _missing(data_dir / FOLDER)


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read the files; download those that are missing first.

    The fingerprint is over the lines `split/file sha256(bytes)`, one per file.

    Args:
        dataset: `mnist`.
        data_dir: its folder `MNIST/raw` has the files, or will have them.
        progress: not used.

    Raises:
        UsageError: the download failed, or a file is not the official one.
    """
    folder = data_dir / FOLDER
    try:
        if _missing(folder):
            _install(folder)
        contents = {name: read_official(folder / Path(name).name, md5) for name, md5 in FILES.items()}
    except OSError as error:
        raise UsageError(f"cannot put MNIST into {folder} or read it ({error}); name another --data-dir") from None
    lines = (f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in contents.items())
    raw = [np.frombuffer(gzip.decompress(content), dtype=np.uint8) for content in contents.values()]
    images = [one[IMAGES_START:].reshape(-1, *MNIST_SHAPE) for one in raw[::2]]
    labels = [one[LABELS_START:].astype(np.int64) for one in raw[1::2]]
    return Dataset("MNIST", fingerprint(lines), tuple("0123456789"), images[0], labels[0], images[1], labels[1])


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / Path(name).name).is_file()]


def _install(folder: Path) -> None:
    """Download the missing files; each appears only when it is complete."""
    remedy = f"put its four .gz files into {folder}, or name the folder that holds {FOLDER} with --data-dir"
    with cache.folder_lock(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".mnist-") as temporary:
        for name in _missing(folder):  # another process may have been faster
            path = Path(temporary, Path(name).name)
            download("MNIST", URL, path, FILES[name], remedy)
            os.replace(path, folder / path.name)
