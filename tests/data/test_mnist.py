"""MNIST, on small files in the same format."""

import gzip
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from made_images import mnist_files, patches
from torchvision.datasets import MNIST

from replicate.data import mnist
from replicate.data.dataset import Dataset
from replicate.data.mnist import FOLDER, is_local, load
from replicate.errors import UsageError

OFFICIAL, URL = dict(mnist.FILES), mnist.URL
NAMES = sorted(Path(name).name for name in OFFICIAL)


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small files, expected instead of the official ones."""
    digests = mnist_files(tmp_path / "release", train=30, test=20)
    monkeypatch.setattr(mnist, "FILES", {name: digests[Path(name).name] for name in OFFICIAL})
    monkeypatch.setattr(mnist, "URL", "http://127.0.0.1:9")
    return tmp_path / "release"


@pytest.fixture
def served(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same, on a server."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(release))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(mnist, "URL", f"http://127.0.0.1:{server.server_port}")
        yield release
        server.shutdown()


def check(dataset: Dataset, release: Path) -> None:
    assert (dataset.label, dataset.classes) == ("MNIST", tuple("0123456789"))
    for split, count in (("train", 30), ("test", 20)):
        images, labels = patches(split, count)
        found = getattr(dataset, f"{split}_images")
        assert (found.dtype, getattr(dataset, f"{split}_labels").dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(found, images[:, None])
        assert getattr(dataset, f"{split}_labels").tolist() == labels.tolist()
    lines = [f"{name} {hashlib.sha256((release / Path(name).name).read_bytes()).hexdigest()}\n" for name in OFFICIAL]
    assert dataset.fingerprint == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_the_official_files_are_those_of_torchvision() -> None:
    assert {Path(name).name: digest for name, digest in OFFICIAL.items()} == dict(MNIST.resources)
    assert f"{URL}/" in MNIST.mirrors


def test_the_small_files_are_read_like_this_by_torchvision(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / FOLDER)
    for name in NAMES:
        (tmp_path / FOLDER / name).with_suffix("").write_bytes(gzip.decompress((release / name).read_bytes()))
    theirs, ours = MNIST(tmp_path, train=False), load("mnist", tmp_path)
    np.testing.assert_array_equal(ours.test_images[:, 0], theirs.data.numpy())
    assert ours.test_labels.tolist() == theirs.targets.tolist()
    check(ours, release)


def test_only_what_is_missing_is_downloaded(served: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    for name in NAMES[1:]:
        shutil.copy(served / name, folder)
    assert not is_local(tmp_path)
    for _ in range(2):
        check(load("mnist", tmp_path), served)
        assert is_local(tmp_path)
    assert sorted(os.listdir(folder)) == NAMES
    assert capfd.readouterr().err.count("GET /") == 2  # torchvision first looks for redirects


@pytest.mark.usefixtures("release")
def test_a_failed_download_is_one_line_that_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot download MNIST from http.* \(.*\): put its four") as caught:
        load("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    assert f"{tmp_path / FOLDER}, or name the folder that holds {FOLDER} with --data-dir" in str(caught.value)
    assert os.listdir(tmp_path / FOLDER) == []


def test_a_damaged_file_is_named(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / FOLDER)
    (tmp_path / FOLDER / NAMES[0]).write_bytes(b"half")
    with pytest.raises(UsageError, match=f"{NAMES[0]} is missing or is not the official file; delete "):
        load("mnist", tmp_path)


@pytest.mark.usefixtures("release")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot put MNIST into .*file/MNIST/raw .*; name another --data-dir"):
        load("mnist", tmp_path / "file")
