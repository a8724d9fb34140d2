"""CIFAR-10 and CIFAR-100, on small releases in the same format."""

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
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from permissions import restricted
from torchvision.datasets import CIFAR10, CIFAR100

from replicate.data import download
from replicate.data.cifar import RELEASES, is_local, load
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


OFFICIAL = dict(RELEASES)
ARCHIVE, FOLDER = OFFICIAL["cifar10"].archive, OFFICIAL["cifar10"].folder


def change(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Expect another release of CIFAR-10."""
    monkeypatch.setitem(RELEASES, "cifar10", replace(RELEASES["cifar10"], **fields))


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
        splits = zip(("train", "train", "test"), BATCHES, strict=True)
        files = {f"{split}/{name}": md5(FILES[name]) for split, name in splits}
        meta = ("batches.meta", md5(FILES["batches.meta"]), "label_names")
        change(monkeypatch, md5=md5((release / ARCHIVE).read_bytes()), files=files, meta=meta)
        change(monkeypatch, url=f"http://127.0.0.1:{server.server_port}")
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


@pytest.mark.parametrize(("name", "theirs"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_the_official_releases_are_those_of_torchvision(name: str, theirs: type[CIFAR10]) -> None:
    ours = OFFICIAL[name]
    train = {f"train/{file}": digest for file, digest in theirs.train_list}
    test = {f"test/{file}": digest for file, digest in theirs.test_list}
    assert (f"{ours.url}/{ours.archive}", ours.md5, ours.files) == (theirs.url, theirs.tgz_md5, train | test)
    assert ours.meta == (theirs.meta["filename"], theirs.meta["md5"], theirs.meta["key"])
    assert (ours.archive, ours.folder) == (theirs.filename, theirs.base_folder)


def test_cifar100_has_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class {number}" for number in range(100)]
    files = {"meta": {"fine_label_names": names, "coarse_label_names": ["x"]}}
    for name, label in (("train", 99), ("test", 7)):
        data = IMAGES["data_batch_1" if name == "train" else "test_batch"]
        files[name] = {"data": data, "fine_labels": [label] * 20, "coarse_labels": [0] * 20}
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    digests = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content, 2))
        digests[name] = md5((folder / name).read_bytes())
    release = OFFICIAL["cifar100"]
    monkeypatch.setitem(
        RELEASES,
        "cifar100",
        replace(
            release,
            files={"train/train": digests["train"], "test/test": digests["test"]},
            meta=("meta", digests["meta"], "fine_label_names"),
        ),
    )
    assert is_local("cifar100", tmp_path)
    dataset = load("cifar100", tmp_path)
    assert (dataset.label, dataset.classes) == ("CIFAR-100", tuple(names))
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([99] * 20, [7] * 20)
    np.testing.assert_array_equal(dataset.test_images, IMAGES["test_batch"].reshape(20, 3, 32, 32))


@pytest.mark.parametrize("name", [FOLDER, ARCHIVE])
def test_what_is_there_is_used_without_a_download(
    tmp_path: Path, release: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not is_local("cifar10", tmp_path)
    (tmp_path / name).symlink_to(release / name)
    assert is_local("cifar10", tmp_path)
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


@pytest.mark.parametrize(("field", "value"), [("url", "http://127.0.0.1:9"), ("md5", "0" * 32)])
def test_a_failed_download_is_one_line_that_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    change(monkeypatch, **{field: value})
    with pytest.raises(UsageError, match=r"^cannot download CIFAR-10 from http.*$") as caught:
        load("cifar10", tmp_path)
    for way in (f"put {ARCHIVE} or the folder {FOLDER} into {tmp_path}", "--data-dir", "=synthetic", "=folder:NAME"):
        assert way in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
        change(monkeypatch, url=f"http://127.0.0.1:{server.getsockname()[1]}")
        yield
        server.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@pytest.mark.usefixtures("silent_server")
def test_a_download_that_stands_still_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SILENT_SECONDS", 0.2)
    with pytest.raises(UsageError, match=r"cannot download CIFAR-10 from http.* \(.*timed out.*\): put"):
        load("cifar10", tmp_path)
    assert os.listdir(tmp_path) == []
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("silent_server")
def test_a_download_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    process = mp.get_context("fork").Process(target=survey, args=(["cifar10"], tmp_path))  # has loaded torch already
    process.start()
    end = time.monotonic() + 120
    while not list(tmp_path.glob(".cifar-*/*")):
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
