import functools
import hashlib
import http.server
import io
import pickle
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torchvision

from replicate.data import cifar10
from replicate.data.cifar10 import ARCHIVE, FOLDER, OFFICIAL, Release
from replicate.errors import UsageError

RNG = np.random.default_rng(0)
IMAGES = {
    name: RNG.integers(0, 256, (20, 3072), dtype=np.uint8) for name in ("data_batch_1", "data_batch_2", "test_batch")
}
LABELS = {name: RNG.integers(0, 10, 20).tolist() for name in IMAGES}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def text(value: str) -> bytes:
    return b"U" + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Pickle as the official files are: protocol 2 of Python 2, whose strings are bytes, and an old NumPy's arrays."""
    dtype = (
        b"cnumpy\ndtype\n" + text("u1") + b"K\x00K\x01\x87R(K\x03" + text("|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
    )
    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    raw = images.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text("b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<I", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + text("labels") + numbers + b"u."


def meta() -> bytes:
    return b"\x80\x02}(" + text("label_names") + b"](" + b"".join(map(text, CLASSES)) + b"eu."


FILES = {**{name: batch(IMAGES[name], LABELS[name]) for name in IMAGES}, "batches.meta": meta()}


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def make_archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in {"readme.html": b"hello", **FILES}.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


TAR = make_archive()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Release:
    """A small archive in the official format, at an address where nobody answers."""
    monkeypatch.setenv("no_proxy", "*")
    return Release(
        url=f"http://127.0.0.1:{free_port()}/{ARCHIVE}",
        md5=md5(TAR),
        train=tuple((name, md5(FILES[name])) for name in ("data_batch_1", "data_batch_2")),
        test=(("test_batch", md5(FILES["test_batch"])),),
        meta=("batches.meta", md5(FILES["batches.meta"])),
    )


class Server(http.server.ThreadingHTTPServer):
    gets = 0


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        if self.headers["Method"] == "HEAD":  # torchvision's way of asking whether it is redirected
            self.do_HEAD()
            return
        self.server.gets += 1
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / ARCHIVE).write_bytes(TAR)
    with Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path / "www"))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def at(server: Server, release: Release) -> Release:
    return replace(release, url=f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")


def put_folder(data_dir: Path) -> Path:
    folder = data_dir / FOLDER
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def check(dataset: cifar10.Dataset) -> None:
    train = np.concatenate([IMAGES["data_batch_1"], IMAGES["data_batch_2"]])
    assert dataset.label == "CIFAR-10"
    assert dataset.classes == tuple(CLASSES)
    assert dataset.train_images.shape == (40, 3, 32, 32)
    assert dataset.train_images.dtype == np.uint8
    # by the format's description: 1,024 red values row by row, then green, then blue
    assert dataset.train_images[21, 2, 5, 7] == train[21, 2 * 1024 + 5 * 32 + 7]
    np.testing.assert_array_equal(dataset.train_images.reshape(40, 3072), train)
    np.testing.assert_array_equal(dataset.test_images.reshape(20, 3072), IMAGES["test_batch"])
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_labels.tolist() == LABELS["data_batch_1"] + LABELS["data_batch_2"]
    assert dataset.test_labels.tolist() == LABELS["test_batch"]


def test_we_expect_what_torchvision_expects():
    theirs = torchvision.datasets.CIFAR10
    assert OFFICIAL.url == theirs.url
    assert OFFICIAL.md5 == theirs.tgz_md5
    assert [list(pair) for pair in OFFICIAL.train] == theirs.train_list
    assert [list(pair) for pair in OFFICIAL.test] == theirs.test_list
    assert OFFICIAL.meta == (theirs.meta["filename"], theirs.meta["md5"])
    assert theirs.base_folder == FOLDER
    assert theirs.filename == ARCHIVE


@pytest.mark.filterwarnings("ignore:dtype")  # NumPy 2.4.0 to 2.4.4 warn of files that Python 2 wrote
def test_the_format_here_is_one_that_python_reads_alike():
    content = pickle.loads(FILES["test_batch"], encoding="latin1")
    np.testing.assert_array_equal(content["data"], IMAGES["test_batch"])
    assert content["labels"] == LABELS["test_batch"]


@pytest.mark.filterwarnings("error")
def test_an_unpacked_copy_is_used(tmp_path: Path, release: Release):
    put_folder(tmp_path / "data")
    check(cifar10.read(tmp_path / "data", release))
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FOLDER]


def test_an_archive_is_unpacked(tmp_path: Path, release: Release):
    (tmp_path / ARCHIVE).write_bytes(TAR)
    check(cifar10.read(tmp_path, release))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FOLDER, ARCHIVE]
    (tmp_path / ARCHIVE).unlink()
    check(cifar10.read(tmp_path, release))


@pytest.mark.filterwarnings("ignore:dtype")  # NumPy 2.4.0 to 2.4.4 warn of files that Python 2 wrote
def test_torchvision_reads_what_we_unpack(tmp_path: Path, release: Release):
    (tmp_path / ARCHIVE).write_bytes(TAR)
    dataset = cifar10.read(tmp_path, release)

    class Small(torchvision.datasets.CIFAR10):  # type: ignore[misc]
        train_list = release.train
        test_list = release.test
        meta = {"filename": release.meta[0], "key": "label_names", "md5": release.meta[1]}  # noqa: RUF012

    theirs = Small(str(tmp_path), train=True)
    np.testing.assert_array_equal(theirs.data.transpose(0, 3, 1, 2), dataset.train_images)
    assert theirs.targets == dataset.train_labels.tolist()
    assert tuple(theirs.classes) == dataset.classes


def test_fingerprint_is_over_the_files_with_images(tmp_path: Path, release: Release):
    put_folder(tmp_path)
    lines = [
        f"test/test_batch {hashlib.sha256(FILES['test_batch']).hexdigest()}\n",
        f"train/data_batch_1 {hashlib.sha256(FILES['data_batch_1']).hexdigest()}\n",
        f"train/data_batch_2 {hashlib.sha256(FILES['data_batch_2']).hexdigest()}\n",
    ]
    assert cifar10.read(tmp_path, release).fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_download(tmp_path: Path, release: Release, server: Server, capfd: pytest.CaptureFixture[str]):
    data = tmp_path / "new" / "data"
    check(cifar10.read(data, at(server, release)))
    assert capfd.readouterr().out == ""
    assert sorted(path.name for path in data.iterdir()) == [FOLDER, ARCHIVE]
    check(cifar10.read(data, release))
    assert server.gets == 1


def test_two_at_once_download_once(tmp_path: Path, release: Release, server: Server):
    found: list[cifar10.Dataset] = []
    threads = [
        threading.Thread(target=lambda: found.append(cifar10.read(tmp_path / "data", at(server, release))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for dataset in found:
        check(dataset)
    assert server.gets == 1


def test_no_network_is_one_line_with_the_ways_out(tmp_path: Path, release: Release):
    with pytest.raises(UsageError, match="cannot download CIFAR-10 from http") as caught:
        cifar10.read(tmp_path / "data", release)
    message = str(caught.value)
    assert "\n" not in message
    for way in (f"put {ARCHIVE} into {tmp_path / 'data'}", "--data-dir", "dataset=synthetic", "dataset=folder:NAME"):
        assert way in message
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_that_is_not_the_official_archive_is_refused(tmp_path: Path, release: Release, server: Server):
    with pytest.raises(UsageError, match="cannot download CIFAR-10"):
        cifar10.read(tmp_path / "data", replace(at(server, release), md5=md5(b"another")))
    assert list((tmp_path / "data").iterdir()) == []


def test_half_an_archive_is_refused(tmp_path: Path, release: Release):
    (tmp_path / ARCHIVE).write_bytes(TAR[: len(TAR) // 2])
    with pytest.raises(UsageError, match=f"{ARCHIVE} has the MD5 .*; delete it to download anew"):
        cifar10.read(tmp_path, release)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [ARCHIVE]


def test_a_folder_that_cannot_be_written(tmp_path: Path, release: Release):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot put CIFAR-10 into .*; name another folder with --data-dir"):
        cifar10.read(tmp_path / "file" / "data", release)


class Trap:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", sorted(FILES))
def test_tampered_files_are_refused_and_never_executed(tmp_path: Path, release: Release, name: str):
    (put_folder(tmp_path) / name).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UsageError, match=f"{FOLDER}/{name} is not the official file.*; delete .*{FOLDER} to have it"):
        cifar10.read(tmp_path, release)
    assert not (tmp_path / "sprung").exists()


def test_code_is_refused_even_where_the_md5_is_right(tmp_path: Path, release: Release):
    data = pickle.dumps(Trap(tmp_path / "sprung"))
    (put_folder(tmp_path) / "test_batch").write_bytes(data)
    with pytest.raises(pickle.UnpicklingError, match="has no place in CIFAR-10"):
        cifar10.read(tmp_path, replace(release, test=(("test_batch", md5(data)),)))
    assert not (tmp_path / "sprung").exists()


def test_of_an_archive_only_plain_files_with_known_names_come_out(tmp_path: Path, release: Release):
    (tmp_path / "secret").write_text("mine")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("../evil", "/evil", f"{FOLDER}/../../evil", f"{FOLDER}/other", "data_batch_2"):
            archive.addfile(tarfile.TarInfo(name))
        kinds = {"data_batch_1": tarfile.SYMTYPE, "batches.meta": tarfile.LNKTYPE, "test_batch": tarfile.FIFOTYPE}
        for name, kind in kinds.items():
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.type, member.linkname = kind, str(tmp_path / "secret")
            archive.addfile(member)
    data_dir = tmp_path / "deep" / "data"
    data_dir.mkdir(parents=True)
    (data_dir / ARCHIVE).write_bytes(stream.getvalue())
    with pytest.raises(UsageError, match=r"data_batch_1 cannot be read \(No such file or directory\)"):
        cifar10.read(data_dir, replace(release, md5=md5(stream.getvalue())))
    assert list((data_dir / FOLDER).iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(["deep", "data", "secret", ARCHIVE, FOLDER])


def test_a_missing_file_is_named(tmp_path: Path, release: Release):
    (put_folder(tmp_path) / "data_batch_2").unlink()
    with pytest.raises(UsageError, match=r"data_batch_2 cannot be read \(No such file or directory\)"):
        cifar10.read(tmp_path, release)


def test_present(tmp_path: Path):
    assert not cifar10.present(tmp_path)
    (tmp_path / ARCHIVE).touch()
    assert cifar10.present(tmp_path)
    put_folder(tmp_path / "other")
    assert cifar10.present(tmp_path / "other")
