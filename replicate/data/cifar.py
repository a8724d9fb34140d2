"""The data sets `cifar10` and `cifar100`: the official archives, downloaded once, checked by MD5 and read."""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from replicate.data import cache
from replicate.data.dataset import Dataset, Progress, fingerprint
from replicate.data.download import download, read_official
from replicate.errors import UsageError
from replicate.names import CIFAR_SHAPE


@dataclass(frozen=True, slots=True)
class Release:
    """An official release, as torchvision has it. Written out here, because importing torchvision takes seconds.

    Args:
        label: display name of the data set.
        archive: file name of the archive.
        md5: of the archive.
        folder: the folder in the archive.
        meta: file of the classes' names, its MD5, and its key of them.
        labels: key of the labels in the files of images.
        files: split and file -> MD5, in the order of the images; the last one is the test set.
        url: of the folder that the archive is downloaded from.
    """

    label: str
    archive: str
    md5: str
    folder: str
    meta: tuple[str, str, str]
    labels: str
    files: Mapping[str, str]
    url: str = "https://www.cs.toronto.edu/~kriz"


RELEASES = {
    "cifar10": Release(
        label="CIFAR-10",
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888", "label_names"),
        labels="labels",
        files={
            "train/data_batch_1": "c99cafc152244af753f735de768cd75f",
            "train/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "train/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "train/data_batch_4": "634d18415352ddfa80567beed471001a",
            "train/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test/test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
    "cifar100": Release(
        label="CIFAR-100",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        meta=("meta", "7973b15100ade9c7d40fb424638fde48", "fine_label_names"),
        labels="fine_labels",
        files={"train/train": "16019d7e3df5f24257cddd939b257f8d", "test/test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    ),
}


def is_local(dataset: str, data_dir: Path) -> bool:
    """Return whether a release is in `data_dir` already, so that it needs no download."""
    release = RELEASES[dataset]
    return (data_dir / release.folder).is_dir() or (data_dir / release.archive).is_file()


def load(dataset: str, data_dir: Path, progress: Progress | None = None) -> Dataset:
    """Read a release; unpack or download it first if it is missing.

    A folder such as `cifar-10-batches-py` or an archive such as `cifar-10-python.tar.gz` that is in `data_dir` already
    is used. Where nothing can be written there, the archive is unpacked in the cache. The fingerprint is over the lines
    `split/file sha256(bytes)`, one per file that contains images.

    Args:
        dataset: `cifar10` or `cifar100`.
        data_dir: where the data is, or will be.
        progress: not used.

    Raises:
        UsageError: the download failed, or a file is missing or is not the official one.
    """
    release = RELEASES[dataset]
    lines, batches = [], []
    try:
        folder = _unpacked(release, data_dir)
        meta, md5, names = release.meta
        classes = pickle.loads(read_official(folder / meta, md5), encoding="latin1")[names]
        for name, md5 in release.files.items():
            content = read_official(folder / Path(name).name, md5)  # a pickle: the bytes that were checked
            lines.append(f"{name} {hashlib.sha256(content).hexdigest()}")
            batches.append(pickle.loads(content, encoding="latin1"))
    except OSError as error:
        problem = f"cannot put {release.label} into {data_dir} or read it ({error})"
        raise UsageError(f"{problem}; name another --data-dir") from None
    images = [batch["data"].reshape(-1, *CIFAR_SHAPE) for batch in batches]  # n c·h·w -> n c h w
    labels = [np.array(batch[release.labels], dtype=np.int64) for batch in batches]
    train = np.concatenate(images[:-1]), np.concatenate(labels[:-1])
    return Dataset(release.label, fingerprint(lines), tuple(classes), *train, images[-1], labels[-1])


def _unpacked(release: Release, data_dir: Path) -> Path:
    archive = data_dir / release.archive
    try:
        return _in_place(release, archive, data_dir)
    except OSError:
        if not archive.is_file():
            raise
        return _in_place(release, archive, cache.folder())  # `data_dir` cannot be written


def _in_place(release: Release, archive: Path, place: Path) -> Path:
    folder = place / release.folder
    if not folder.is_dir():
        with cache.folder_lock(place):
            if not folder.is_dir():  # another process may have been faster
                _install(release, archive, place)
    return folder


def _install(release: Release, archive: Path, place: Path) -> None:
    """Put the folder into a place, and the archive if it is missing; each appears only when it is complete."""
    from torchvision.datasets.utils import check_integrity, extract_archive

    with tempfile.TemporaryDirectory(dir=place, prefix=".cifar-") as temporary:
        if not archive.exists():
            remedy = (
                f"put {release.archive} or the folder {release.folder} into {place}, name the folder that holds it "
                "with --data-dir, or use other data with --set dataset=synthetic or --set dataset=folder:NAME"
            )
            download(release.label, release.url, Path(temporary, release.archive), release.md5, remedy)
            os.replace(Path(temporary, release.archive), archive)
        elif not check_integrity(archive, release.md5):
            raise UsageError(f"{archive} is not the official archive; delete it and try again")
        extract_archive(archive, temporary)
        try:
            os.rename(Path(temporary, release.folder), place / release.folder)
        except OSError:
            # Where folders cannot be locked, another process may have been faster.
            if not (place / release.folder).is_dir():
                raise
