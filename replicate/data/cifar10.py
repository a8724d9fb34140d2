"""The data set `cifar10`: the official archive, downloaded once, checked by MD5 and read."""

import contextlib
import hashlib
import io
import os
import pickle
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from replicate.data.dataset import SIDE, Dataset, fingerprint
from replicate.data.lock import alone
from replicate.errors import UsageError

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"


@dataclass(frozen=True, slots=True)
class Release:
    """Where an archive in CIFAR-10's format comes from and what is in it: pairs of file name and MD5."""

    url: str
    md5: str
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    meta: tuple[str, str]


# The same as in torchvision.datasets.CIFAR10 (a test compares); written out, so that reading needs no torch.
OFFICIAL = Release(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    train=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
    meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
)


def present(data_dir: Path) -> bool:
    """Tell whether CIFAR-10 can be had without a download."""
    return (data_dir / FOLDER).is_dir() or (data_dir / ARCHIVE).is_file()


def read(data_dir: Path, release: Release = OFFICIAL) -> Dataset:
    """Read CIFAR-10; unpack or download it first where it is missing.

    A folder `cifar-10-batches-py` or an archive `cifar-10-python.tar.gz` that is in `data_dir` already is used, such as
    torchvision leaves them. The fingerprint is over the lines `train/data_batch_1 sha256(bytes)` to
    `test/test_batch sha256(bytes)`, one a file that holds images.

    Args:
        data_dir: where the data is, or is put.
        release: the archive to expect.

    Raises:
        UsageError: the download failed, or a file is not the official one.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        with alone(data_dir):
            if not folder.is_dir():  # another process may have been downloading while this one waited
                _install(data_dir, release)
    arrays = {}
    lines = []
    for split, files in (("train", release.train), ("test", release.test)):
        batches = []
        for name, md5 in files:
            data = _verified(folder / name, md5)
            lines.append(f"{split}/{name} {hashlib.sha256(data).hexdigest()}")
            batches.append(_unpickle(data))
        images = np.concatenate([batch["data"] for batch in batches])
        arrays[split] = (
            images.reshape(-1, 3, SIDE, SIDE),  # n c·h·w -> n c h w
            np.array([label for batch in batches for label in batch["labels"]], dtype=np.int64),
        )
    classes = tuple(_unpickle(_verified(folder / release.meta[0], release.meta[1]))["label_names"])
    return Dataset("CIFAR-10", fingerprint(lines), classes, *arrays["train"], *arrays["test"])


def _verified(path: Path, md5: str) -> bytes:
    """Return a file's bytes, the very ones whose MD5 was checked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); delete {path.parent} to have it made anew"
        ) from None
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        raise UsageError(
            f"{path} is not the official file, whose MD5 is {md5}; delete {path.parent} to have it made anew"
        )
    return data


def _install(data_dir: Path, release: Release) -> None:
    """Make `data_dir/cifar-10-batches-py`, and the archive if it is missing; whole or not at all."""
    archive = data_dir / ARCHIVE
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".cifar10-") as name:
            temporary = Path(name)
            if not archive.exists():
                _download(temporary, release)
                os.replace(temporary / ARCHIVE, archive)
            _unpack(archive, temporary / FOLDER, release)
            try:
                os.rename(temporary / FOLDER, data_dir / FOLDER)
            except OSError:
                if not (data_dir / FOLDER).is_dir():  # else a process that could not be locked out was quicker
                    raise
    except OSError as error:
        raise UsageError(
            f"cannot put CIFAR-10 into {data_dir} ({error}); name another folder with --data-dir"
        ) from None


def _download(folder: Path, release: Release) -> None:
    # here, so that reading what is there needs no torch
    from torchvision.datasets.utils import download_url

    try:
        with contextlib.redirect_stdout(sys.stderr):  # a command's output is its answer, not a progress bar
            download_url(release.url, folder, ARCHIVE, release.md5)
    except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: torchvision's for a wrong MD5
        reason = " ".join(str(error).split())
        raise UsageError(
            f"cannot download CIFAR-10 from {release.url} ({reason}): put {ARCHIVE} into {folder.parent}, name the "
            "folder that holds it with --data-dir, or take other data with --set dataset=synthetic or "
            "--set dataset=folder:NAME"
        ) from None


def _unpack(archive: Path, folder: Path, release: Release) -> None:
    """Check the whole archive's MD5, then copy the files that we read from it."""
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != release.md5:
        raise UsageError(f"{archive} has the MD5 {md5}, the official archive {release.md5}; delete it to download anew")
    folder.mkdir()
    wanted = {f"{FOLDER}/{name}": name for name, _ in (*release.train, *release.test, release.meta)}
    with tarfile.open(archive, "r:gz") as members:
        for member in members:  # in the archive's order, so that it is decompressed but once
            plain = member.isreg() and member.name in wanted  # no link, no device, no other name
            if plain and (content := members.extractfile(member)):
                (folder / wanted[member.name]).write_bytes(content.read())


class _Unpickler(pickle.Unpickler):
    """Builds arrays of numbers and nothing else.

    The files were written by Python 2 and an old NumPy, whose `dtype(…, 0, 1)` NumPy 2.4.0 to 2.4.4 warn of.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_reconstruct": lambda kind, shape, code: np.empty(shape, dtype=np.uint8),
            "ndarray": np.ndarray,
            "dtype": lambda code, align, copy: np.dtype(code, copy=True),
        }
        if module.partition(".")[0] != "numpy" or name not in known:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in CIFAR-10")
        return known[name]


def _unpickle(data: bytes) -> dict[str, Any]:
    content: dict[str, Any] = _Unpickler(io.BytesIO(data), encoding="latin1").load()
    return content
