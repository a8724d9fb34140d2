import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replicate.data import folder
from replicate.errors import UsageError

Write = Callable[..., Path]


def read(root: Path) -> folder.Dataset:
    return folder.read(root, root.name)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def test_images_labels_and_classes_are_in_the_order_of_their_sorted_names(write_folder: Write):
    root = write_folder("dog", "cat", "Ape", train=12)
    dataset = read(root)
    assert dataset.label == "pets"
    assert dataset.classes == ("Ape", "cat", "dog")
    assert dataset.train_images.shape == (36, 3, 32, 32)
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int64
    assert dataset.train_labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert dataset.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    names = sorted(f"{index}.png" for index in range(12))  # 0, 1, 10, 11, 2, …
    for index, name in enumerate(names):
        np.testing.assert_array_equal(dataset.train_images[12 + index], pixels(root / "train" / "cat" / name))
    np.testing.assert_array_equal(dataset.test_images[5], pixels(root / "test" / "dog" / "1.png"))


def test_test_labels_need_no_image(write_folder: Write):
    root = write_folder("dog", "cat", "Ape", train=3)
    assert folder.read_test_labels(root).tolist() == read(root).test_labels.tolist()
    next((root / "test" / "cat").iterdir()).write_bytes(b"no image")
    assert folder.read_test_labels(root).tolist() == [0, 0, 1, 1, 2, 2]


def test_fingerprint_is_over_names_and_bytes(write_folder: Write):
    root = write_folder("cat", "dog")
    lines = sorted(
        f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in root.rglob("*.png")
    )
    assert len(lines) == 10
    assert read(root).fingerprint == hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()


def test_fingerprint_follows_the_content_and_not_the_time(write_folder: Write):
    root = write_folder("cat", "dog")
    before = read(root).fingerprint
    image = root / "train" / "cat" / "0.png"
    os.utime(image, ns=(1, 1))
    assert read(root).fingerprint == before
    shutil.copy(root / "train" / "cat" / "1.png", image)
    after = read(root)
    assert after.fingerprint != before
    np.testing.assert_array_equal(after.train_images[0], after.train_images[1])


def test_a_second_load_reads_no_image(write_folder: Write):
    root = write_folder("cat", "dog")
    before = read(root)
    for path in root.rglob("*.png"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = read(root)
    assert after.fingerprint == before.fingerprint
    assert isinstance(after.train_images, np.memmap)
    np.testing.assert_array_equal(after.train_images, before.train_images)
    np.testing.assert_array_equal(after.test_labels, before.test_labels)


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "Jpg", "jpeg", "JPEG"])
def test_suffixes_in_any_case(write_folder: Write, suffix: str):
    root = write_folder("cat", "dog")
    extra = root / "train" / "cat" / f"x.{suffix}"
    Image.new("RGB", (32, 32), (10, 20, 30)).save(extra)
    np.testing.assert_array_equal(read(root).train_images[3], pixels(extra))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_every_mode_becomes_rgb(write_folder: Write, mode: str):
    root = write_folder("cat", "dog")
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(root / "train" / "cat" / "0.png")
    assert (read(root).train_images[0] == 255).all()


def test_hidden_files_are_ignored(write_folder: Write):
    root = write_folder("cat", "dog")
    before = read(root).fingerprint
    for name in (".complete", "train/.DS_Store", "train/cat/.hidden.png", "test/dog/Thumbs.db", "test/desktop.ini"):
        (root / name).write_text("no image")
    (root / ".git").mkdir()
    assert read(root).fingerprint == before


def test_progress_is_told_up_to_the_end(write_folder: Write):
    root = write_folder("cat", "dog", train=400)
    told: list[tuple[int, int]] = []
    folder.read(root, "pets", lambda done, total: told.append((done, total)))
    assert told == [(500, 804), (804, 804)]
    folder.read(root, "pets", lambda done, total: pytest.fail("nothing is decoded the second time"))


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name)


def write(name: str, data: bytes = b"hello") -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return change


def truncate(root: Path) -> None:
    path = root / "train/cat/0.png"
    path.write_bytes(path.read_bytes()[:1000])


def save(name: str, size: tuple[int, int], kind: str | None = None) -> Callable[[Path], object]:
    return lambda root: Image.new("RGB", size).save(root / name, kind)


def one_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")
    shutil.rmtree(root / "test" / "dog")


def empty_class(root: Path) -> None:
    for path in (root / "test" / "dog").iterdir():
        path.unlink()


def no_folder(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").touch()


BAD: list[tuple[Callable[[Path], object], str]] = [
    (remove("train"), r"/pets has no folder 'train'; images belong in \{train,test\}/<class>/<file>"),
    (remove("test"), r"/pets has no folder 'test'"),
    (no_folder, r"cannot list .*/pets/train \(Not a directory\)"),
    (one_class, r"/pets holds 1 classes; .* at least two"),
    (remove("test/dog"), r"/pets: class 'dog' is in train but not in test"),
    (remove("train/cat"), r"/pets: class 'cat' is in test but not in train"),
    (empty_class, r"/pets/test/dog holds no image"),
    (write("README.md"), r"/pets/README.md does not belong to the data set"),
    (write("val/cat/0.png"), r"/pets/val does not belong to the data set"),
    (write("train/0.png"), r"/pets/train/0.png is not in the folder of a class"),
    (write("train/cat/notes.txt"), r"/pets/train/cat/notes.txt is not a PNG or JPEG file; move it"),
    (write("train/cat/more/0.png"), r"/pets/train/cat/more is not a PNG or JPEG file"),
    (write("train/cat/more.png/0.png"), r"/pets/train/cat/more.png is not a PNG or JPEG file"),
    (write("train/cat/0.png"), r"/pets/train/cat/0.png cannot be read as an image"),
    (write("train/cat/0.png", b""), r"/pets/train/cat/0.png cannot be read as an image"),
    (truncate, r"/pets/train/cat/0.png cannot be read as an image \(image file is truncated"),
    (save("test/cat/0.png", (32, 32), "GIF"), r"/pets/test/cat/0.png cannot be read as an image"),
    (save("test/cat/0.png", (33, 32)), r"/pets/test/cat/0.png is 33×32 pixels; every image must be 32×32"),
    (save("test/cat/0.jpg", (28, 28)), r"/pets/test/cat/0.jpg is 28×28 pixels"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_every_fault_is_one_line_that_names_the_culprit(
    write_folder: Write, change: Callable[[Path], object], message: str
):
    root = write_folder("cat", "dog")
    change(root)
    with pytest.raises(UsageError, match=message) as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_answered_with_what_is_there(write_folder: Write):
    write_folder("cat", "dog", name="birds")
    root = write_folder("cat", "dog")
    (root.parent / "stray").mkdir()
    with pytest.raises(UsageError, match=r"no data set 'fish' in .*/data, which holds: birds, pets; "):
        read(root.parent / "fish")
    with pytest.raises(UsageError, match=r"no data set 'fish' in .*/nowhere, which holds: no data set"):
        read(root.parent / "nowhere" / "fish")


LOAD = """
import pathlib, sys
from replicate.data import folder
print(folder.read(pathlib.Path(sys.argv[1]), "label").fingerprint)
"""


def test_two_processes_at_once(write_folder: Write, cache_dir: Path):
    root = write_folder("cat", "dog", train=50)
    command = [sys.executable, "-c", LOAD, str(root)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    prints = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert prints == [read(root).fingerprint] * 2
    assert sorted(path.suffix for path in cache_dir.rglob("*") if path.is_file()) == [".json", ".npy"]


@pytest.mark.skipif(
    "REPLICATE_TEST_IMAGES" not in os.environ, reason="REPLICATE_TEST_IMAGES names no folder with real images"
)
def test_real_images(real_images: folder.Dataset):
    assert len(real_images.classes) == 10
    assert real_images.train_images.shape == (5085, 3, 32, 32)
    assert real_images.test_images.shape == (1017, 3, 32, 32)
    assert np.bincount(real_images.train_labels).min() > 400
