import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_images import image_folder
from PIL import Image
from torchvision.datasets import ImageFolder

from replicate.data import folder
from replicate.data.dataset import Dataset
from replicate.errors import UsageError


def load(root: Path) -> Dataset:
    return folder.load(f"folder:{root.name}", root.parent)


def test_images_labels_and_classes_are_those_of_torchvision(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets", train=36, test=6, kinds=("dog", "cat", "Ape"))
    dataset = load(root)
    assert (dataset.label, dataset.classes) == ("pets", ("Ape", "cat", "dog"))
    assert (dataset.train_images.dtype, dataset.train_labels.dtype) == (np.uint8, np.int64)
    for split in ("train", "test"):
        theirs = ImageFolder(root / split)
        assert getattr(dataset, f"{split}_labels").tolist() == theirs.targets
        images = np.stack([np.asarray(image) for image, _ in theirs])
        np.testing.assert_array_equal(getattr(dataset, f"{split}_images").transpose(0, 2, 3, 1), images)


def test_the_fingerprint_follows_names_and_bytes_but_neither_times_nor_hidden_files(pets: Path) -> None:
    digests = {path.relative_to(pets): hashlib.sha256(path.read_bytes()).hexdigest() for path in pets.rglob("*.png")}
    lines = sorted(f"{name} {digest}" for name, digest in digests.items())
    before = load(pets).fingerprint
    assert before == hashlib.sha256("".join(line + "\n" for line in lines).encode()).hexdigest()
    image = pets / "train" / "cat" / "00000.png"
    os.utime(image, ns=(1, 1))
    for name in (".complete", "train/.DS_Store", "train/cat/.hidden.png", "test/dog/Thumbs.db", "test/desktop.ini"):
        (pets / name).write_text("no image")
    assert load(pets).fingerprint == before
    shutil.copy(image.with_name("00002.png"), image)
    after = load(pets)
    assert after.fingerprint != before
    np.testing.assert_array_equal(after.train_images[0], after.train_images[1])


def test_a_second_load_reads_no_image(pets: Path) -> None:
    before = load(pets)
    for path in pets.rglob("*.png"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = load(pets)
    assert after.fingerprint == before.fingerprint
    assert isinstance(after.train_images, np.memmap)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize(("mode", "suffix"), [("L", "JPEG"), ("1", "PNG"), ("P", "png"), ("RGBA", "png")])
def test_suffixes_in_any_case_and_modes_that_become_rgb(pets: Path, mode: str, suffix: str) -> None:
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(pets / "train" / "cat" / f"x.{suffix}")
    assert (load(pets).train_images[3] == 255).all()


def encoded(size: tuple[int, int], kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


BAD: list[tuple[list[str], dict[str, bytes], str]] = [
    (["train"], {}, r"/pets/train is missing or does not belong .*; images belong in \{train,test\}/<class>/<file>"),
    ([], {"val/cat/0.png": b""}, r"/pets/val is missing or does not belong"),
    ([], {"train/0.png": b""}, r"cannot list .*/pets/train/0.png \(Not a directory\)"),
    (["train/dog", "test/dog"], {}, r"/pets has images of 1 classes; at least two"),
    (["train/cat"], {"train/cat/.hidden": b""}, r"/pets/train/cat has no image; add some, or remove the class"),
    (["train/cat"], {}, r"/pets: these classes have images in only one .*: cat"),
    ([], {"train/cat/x.png/0.png": b""}, r"/pets/train/cat/x.png is not a PNG or JPEG file; move it out"),
    ([], {"test/cat/notes.txt": b""}, r"/pets/test/cat/notes.txt is not a PNG or JPEG file; move it out"),
    ([], {"test/cat/x\ny.png": b""}, r"/pets/test/cat holds 'x\\ny.png', whose name has a line break"),
    ([], {"train/cat/0.png": encoded((32, 32), "PNG")[:60]}, r"cat/0.png cannot be read as an image \(.*truncated"),
    ([], {"test/cat/0.png": encoded((32, 32), "GIF")}, r"/pets/test/cat/0.png cannot be read as an image"),
    ([], {"test/cat/0.jpg": encoded((28, 32), "JPEG")}, r"cat/0.jpg is 28×32 pixels; every image must be 32×32"),
]


@pytest.mark.parametrize(("removed", "written", "message"), BAD)
def test_every_fault_is_one_line_that_names_the_culprit(
    pets: Path, removed: list[str], written: dict[str, bytes], message: str
) -> None:
    for name in removed:
        shutil.rmtree(pets / name)
    for name, data in written.items():
        (pets / name).parent.mkdir(parents=True, exist_ok=True)
        (pets / name).write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        load(pets)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_answered_with_what_is_there(pets: Path) -> None:
    image_folder(pets.with_name("birds"), train=2, test=2)
    (pets.parent / "stray").mkdir()
    with pytest.raises(UsageError, match=r"no data set 'fish' in .*/data, which contains: birds, pets; "):
        load(pets.with_name("fish"))
    with pytest.raises(UsageError, match=r"no data set 'fish' in .*/nowhere, which contains: no data set"):
        load(pets.parent / "nowhere" / "fish")
