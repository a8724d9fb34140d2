"""CIFAR-10, on a small release in the same format."""

import contextlib
import hashlib
import multiprocessing as mp
import os
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from permissions import restricted
from torchvision.datasets import CIFAR10

from replicate.data import cifar10
from replicate.data.cifar10 import ARCHIVE, FOLDER, is_local, load
from replicate.data.dataset import Dataset
from replicate.errors import UsageError
from replicate.training.environment import survey

BATCHES = ("data_batch_1", "data_batch_2", "test_batch")
IMAGES = dict(zip(BATCHES, np.random.default_rng(0).integers(0, 256, (3, 20, 3072), dtype=np.uint8), strict=True))
LABELS = {name: [(7 * index + len(name)) % 10 for index in range(20)] for name in BATCHES}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CONTENTS = {name: {"data": IMAGES[name], "labels": LABELS[name]} for name in BATCHES}
# The pickles of NumPy 2: another format changes the fingerprint below.
FILES = {name: pickle.dumps(data, 2) for name, data in {**CONTENTS, "batches.meta": {"label_names": CLASSES}}.items()}


OFFICIAL = (cifar10.URL, cifar10.ARCHIVE_MD5, cifar10.BATCHES, cifar10.META_MD5)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small release, as an archive and as a folder."""
    root = tmp_path_factory.mktemp("release")
    (root / FOLDER).mkdir()
    for name, data in FILES.items():
        (root / FOLDER / name).write_bytes(data)
    shutil.make_archive(str(root / ARCHIVE.removesuffix(".tar.gz")), "gztar", root, FOLDER)
    return root


@pytest.fixture(autouse=True)
def served(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the release and expect it instead of the official one. The server prints each request to stderr."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(release))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")
        monkeypatch.setattr(cifar10, "ARCHIVE_MD5", md5((release / ARCHIVE).read_bytes()))
        splits = zip(("train", "train", "test"), BATCHES, strict=True)
        monkeypatch.setattr(cifar10, "BATCHES", {f"{split}/{name}": md5(FILES[name]) for split, name in splits})
        monkeypatch.setattr(cifar10, "META_MD5", md5(FILES["batches.meta"]))
        yield
        server.shutdown()


def check(dataset: Dataset) -> None:
    assert (dataset.label, dataset.classes) == ("CIFAR-10", tuple(CLASSES))
    # sha256 over the sorted lines `split/file sha256(bytes)`. Records contain it, so it must never change.
    assert dataset.fingerprint == "0d797c2b9a6256ee920eb08bca31bca54f6d31b13efb6baaacba2758e8e5a8cb"
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.uint8, np.int64)
    # 1,024 red values row by row, then green, then blue
    train = np.concatenate([IMAGES["data_batch_1"], IMAGES["data_batch_2"]])
    np.testing.assert_array_equal(dataset.train_images, train.reshape(40, 3, 32, 32))
    np.testing.assert_array_equal(dataset.test_images, IMAGES["test_batch"].reshape(20, 3, 32, 32))
    assert dataset.train_labels.tolist() == LABELS["data_batch_1"] + LABELS["data_batch_2"]
    assert dataset.test_labels.tolist() == LABELS["test_batch"]


def test_the_official_release_is_that_of_torchvision() -> None:
    train = {f"train/{name}": digest for name, digest in CIFAR10.train_list}
    test = {f"test/{name}": digest for name, digest in CIFAR10.test_list}
    assert (CIFAR10.url, CIFAR10.tgz_md5, train | test, CIFAR10.meta["md5"]) == OFFICIAL
    assert (CIFAR10.filename, CIFAR10.base_folder, CIFAR10.meta["filename"]) == (ARCHIVE, FOLDER, cifar10.META)


@pytest.mark.parametrize("name", [FOLDER, ARCHIVE])
def test_what_is_there_is_used_without_a_download(
    tmp_path: Path, release: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not is_local(tmp_path)
    (tmp_path / name).symlink_to(release / name)
    assert is_local(tmp_path)
    check(load("cifar10", tmp_path))
    assert set(os.listdir(tmp_path)) == {FOLDER, name}
    assert capfd.readouterr() == ("", "")


def test_an_archive_in_a_folder_that_cannot_be_written_is_unpacked_in_the_cache(
    tmp_path: Path, release: Path, cache_dir: Path
) -> None:
    data_dir = tmp_path / "shared"
    data_dir.mkdir()
    shutil.copy(release / ARCHIVE, data_dir)
    with restricted(data_dir):
        for _ in range(2):
            check(load("cifar10", data_dir))
    assert os.listdir(data_dir) == [ARCHIVE]
    assert FOLDER in os.listdir(cache_dir)


def test_several_at_once_download_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(3) as threads:
        for dataset in threads.map(lambda _: load("cifar10", tmp_path / "new"), range(3)):
            check(dataset)
    assert sorted(os.listdir(tmp_path / "new")) == [FOLDER, ARCHIVE]
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count(f'"GET /{ARCHIVE}') == 2  # torchvision first looks for redirects


@pytest.mark.parametrize(("constant", "value"), [("URL", f"http://127.0.0.1:9/{ARCHIVE}"), ("ARCHIVE_MD5", "0" * 32)])
def test_a_failed_download_is_one_line_that_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: str
) -> None:
    monkeypatch.setattr(cifar10, constant, value)
    with pytest.raises(UsageError, match=r"^cannot download CIFAR-10 from http.*$") as caught:
        load("cifar10", tmp_path)
    for way in (f"put {ARCHIVE} or the folder {FOLDER} into {tmp_path}", "--data-dir", "=synthetic", "=folder:NAME"):
        assert way in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that promises the archive, sends a part of it, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.recv(10_000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
                    connections.append(connection)

        connections: list[socket.socket] = []
        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/{ARCHIVE}"
        monkeypatch.setattr(cifar10, "URL", url)
        yield url
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@pytest.mark.usefixtures("silent_server")
def test_a_download_that_stands_still_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "SILENT_SECONDS", 0.2)
    with pytest.raises(UsageError, match=r"cannot download CIFAR-10 from http.* \(.*timed out.*\): put"):
        load("cifar10", tmp_path)
    assert os.listdir(tmp_path) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("silent_server")
def test_a_download_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    process = mp.get_context("fork").Process(target=survey, args=(["cifar10"], tmp_path))  # has loaded torch already
    process.start()
    end = time.monotonic() + 120
    while not list(tmp_path.glob(".cifar10-*/*")):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.terminate()
    process.join()
    assert os.listdir(tmp_path) == []


def test_an_interrupted_extraction_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(archive: Path, folder: str) -> None:
        (Path(folder) / FOLDER).mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils.extract_archive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load("cifar10", tmp_path)
    assert os.listdir(tmp_path) == [ARCHIVE]
    check(load("cifar10", tmp_path))


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("sprung",)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_never_unpickled(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(release / FOLDER, tmp_path / FOLDER)
    (tmp_path / FOLDER / name).write_bytes(pickle.dumps(Trap()))
    for _ in range(2):
        message = f"{FOLDER}/{name} is missing or is not the official .*; delete .*{FOLDER}"
        with pytest.raises(UsageError, match=message):
            load("cifar10", tmp_path)
        (tmp_path / FOLDER / name).unlink(missing_ok=True)
    assert os.listdir(tmp_path) == [FOLDER]


def test_a_damaged_archive_is_kept_and_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(b"half")
    with pytest.raises(UsageError, match=f"{ARCHIVE} is not the official archive; delete it"):
        load("cifar10", tmp_path)
    assert os.listdir(tmp_path) == [ARCHIVE]
    with pytest.raises(UsageError, match=r"cannot put CIFAR-10 into .*; name another --data-dir"):
        load("cifar10", tmp_path / ARCHIVE / "data")
