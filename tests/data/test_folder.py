import hashlib
import io
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import image_folder, png
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


def test_a_second_load_reads_no_image(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(pets)
    monkeypatch.setattr(folder, "read_bytes", None)
    after = load(pets)
    assert after.fingerprint == before.fingerprint
    assert isinstance(after.train_images, np.memmap)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def uncompressed(root: Path, seed: int) -> Path:
    """Write a data set whose files have the same names, sizes and times whatever the seed."""
    rng = np.random.default_rng(seed)
    for name in ("train/cat/0.png", "train/dog/0.png", "test/cat/0.png", "test/dog/0.png"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        image.save(path, compress_level=0)
        os.utime(path, ns=(1, 1))
    return root


def test_two_folders_never_share_an_entry_of_the_cache(tmp_path: Path, cache_dir: Path) -> None:
    one, two = (load(uncompressed(tmp_path / name, seed)) for seed, name in enumerate("ab"))
    assert one.fingerprint != two.fingerprint
    assert (one.train_images != two.train_images).any()
    shutil.copytree(tmp_path / "a", tmp_path / "copy", copy_function=os.link)  # of the very same files
    assert load(tmp_path / "copy").fingerprint == one.fingerprint
    (tmp_path / "link").symlink_to("a")
    assert load(tmp_path / "link").fingerprint == one.fingerprint
    # "a" was read again when its files got a second name, which changes them, and replaced its entry; the link is "a"
    entries = [*cache_dir.glob("*.npy")]
    assert len(entries) == 3
    load(tmp_path / "a")
    assert [*cache_dir.glob("*.npy")] == entries


@pytest.mark.parametrize("change", ["written", "renamed", "class is a link"])
def test_an_image_of_the_same_size_and_time_is_noticed(tmp_path: Path, change: str) -> None:
    here, other = (uncompressed(tmp_path / name, seed) for seed, name in enumerate("ab"))
    before = load(here)
    image = here / "train" / "cat" / "0.png"
    if change == "written":
        image.write_bytes((other / "train" / "cat" / "0.png").read_bytes())
        os.utime(image, ns=(1, 1))
    elif change == "renamed":
        os.replace(other / "train" / "cat" / "0.png", image)
    else:
        shutil.rmtree(image.parent)
        image.parent.symlink_to(other / "train" / "cat")
    after = load(here)
    assert after.fingerprint != before.fingerprint
    assert (after.train_images[0] != before.train_images[0]).any()
    np.testing.assert_array_equal(after.train_images[1], before.train_images[1])


@pytest.mark.parametrize(("mode", "suffix"), [("L", "JPEG"), ("1", "PNG"), ("P", "png"), ("RGBA", "png")])
def test_suffixes_in_any_case_and_modes_that_become_rgb(pets: Path, mode: str, suffix: str) -> None:
    Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode).save(pets / "train" / "cat" / f"x.{suffix}")
    assert (load(pets).train_images[3] == 255).all()


RNG = np.random.default_rng(0)
BYTES, PALETTE = RNG.integers(0, 256, (32, 32, 3)), RNG.integers(0, 256, (256, 3))
GREY, OPAQUE = BYTES[..., :1], np.full((32, 32, 1), 255)


def png_of(depth: int, colour: int, *channels: np.ndarray, **chunks: bytes) -> bytes:
    return png(depth, colour, np.concatenate(channels, axis=2).ravel().tolist(), **chunks)


def kept(depth: int) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Grey and palette of so many bits."""
    few, palette = GREY % 2**depth, PALETTE[: 2**depth].astype(np.uint8).tobytes()
    yield f"grey, {depth}", png_of(depth, 0, few), few * (255 // (2**depth - 1))
    for name, chunks in (("palette", {}), ("opaque palette", {"tRNS": b"\xff" * 2**depth})):
        yield f"{name}, {depth}", png_of(depth, 3, few, PLTE=palette, **chunks), PALETTE[few[..., 0]]


KEPT = [
    *itertools.chain(*map(kept, (1, 2, 4, 8))),
    ("opaque grey", png_of(8, 4, GREY, OPAQUE), GREY),
    ("RGB", png_of(8, 2, BYTES), BYTES),
    ("opaque RGB", png_of(8, 6, BYTES, OPAQUE), BYTES),
    ("no pixel has the transparent colour", png_of(8, 2, BYTES | 1, tRNS=bytes(6)), BYTES | 1),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("data", "pixels"), [case for _, *case in KEPT], ids=[name for name, *_ in KEPT])
def test_what_eight_bits_can_hold_is_read_to_the_pixel(pets: Path, data: bytes, pixels: np.ndarray) -> None:
    (pets / "train" / "cat" / "x.png").write_bytes(data)
    np.testing.assert_array_equal(load(pets).train_images[3].transpose(1, 2, 0), np.broadcast_to(pixels, (32, 32, 3)))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Grey images of 28×28 pixels, some of them stored in colour."""
    for number, mode in enumerate(("L", "RGB", "P", "LA") * 2):
        image = Image.fromarray(BYTES[:28, :28, number % 3].astype(np.uint8))
        path = tmp_path / "data" / "digits" / ("train", "test")[number // 4] / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path)
    return tmp_path / "data" / "digits"


def test_grey_images_of_28_pixels_have_one_channel(digits: Path) -> None:
    for _ in range(2):  # the second time from the cache
        dataset = load(digits)
        assert dataset.shape == (1, 28, 28)
        np.testing.assert_array_equal(dataset.train_images[:, 0], BYTES[:28, :28, [0, 2, 1, 0]].transpose(2, 0, 1))


def test_images_of_different_sizes_and_small_ones_with_colours_are_refused(digits: Path, pets: Path) -> None:
    image = digits / "test" / "1" / "7.png"
    Image.fromarray(BYTES[:28, :28].astype(np.uint8)).save(image)
    with pytest.raises(UsageError, match=r"/test/1/7\.png has colours; every image must be 32×32, as in CIFAR, or"):
        load(digits)
    shutil.copy(pets / "train" / "cat" / "00000.png", image)
    with pytest.raises(UsageError, match=r"/7\.png and .*/train/0/0\.png have different sizes; every image must"):
        load(digits)


KEYED = {1: 1, 2: 3, 4: 15, 8: 255}  # bits of a grey -> white, as the file holds it
TRANSPARENT = {
    "grey": png(8, 4, [9, 255] * 1023 + [9, 254]),
    "RGB": png(8, 6, [9, 9, 9, 255] * 1023 + [9, 9, 9, 0]),
    "palette": png(8, 3, [0] * 1023 + [1], PLTE=bytes(6), tRNS=b"\xff\x80"),
    "palette of one": png(1, 3, [0] * 1023 + [1], PLTE=bytes(6), tRNS=b"\xff\0"),
    "key": png(8, 2, [1, 2, 3], tRNS=b"\0\1\0\2\0\3"),
    **{f"key, {bits}": png(bits, 0, [0, white], tRNS=bytes([0, white])) for bits, white in KEYED.items()},
}
DEEP = {colour: png(16, colour, [0, 257, 65_535, 1000]) for colour in (0, 2, 4, 6)}


def pictures(kind: str) -> bytes:
    file, (one, two) = io.BytesIO(), (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))
    one.save(file, kind, save_all=True, append_images=[two])
    return file.getvalue()


LOSSES = [
    *((f"{name}.png", data, "has transparent pixels") for name, data in TRANSPARENT.items()),
    *((f"{colour}.png", data, "has 16 bits a channel") for colour, data in DEEP.items()),
    ("16 bits, opaque.png", png(16, 6, [1000, 2000, 3000, 65_535]), "has 16 bits a channel"),
    ("animated.png", pictures("PNG"), "holds 2 pictures"),
    ("stereo.jpg", pictures("MPO"), "holds 2 pictures"),
]


@pytest.mark.parametrize(("name", "data", "fault"), LOSSES, ids=[name for name, *_ in LOSSES])
def test_what_eight_bits_of_rgb_would_lose_is_refused(pets: Path, name: str, data: bytes, fault: str) -> None:
    path = pets / "train" / "cat" / name
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        load(pets)
    assert str(caught.value) == f"{path} {fault}; {folder.PLAIN}"


@given(where=st.integers(0, 1023), alpha=st.integers(0, 255), colour=st.sampled_from([4, 6]))
@settings(max_examples=20)
def test_one_pixel_that_is_not_opaque_is_enough(where: int, alpha: int, colour: int) -> None:
    pixel = [7] if colour == 4 else [7, 7, 7]
    samples = [*pixel, 255] * 1024
    samples[where * (len(pixel) + 1) + len(pixel)] = alpha
    with Image.open(io.BytesIO(png(8, colour, samples))) as image:
        if alpha == 255:
            assert (folder._pixels(image) == 7).all()
        else:
            with pytest.raises(UsageError, match="has transparent pixels"):
                folder._pixels(image)


def encoded(size: tuple[int, int], kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind)
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
    ([], {"test/cat/0.jpg": encoded((32, 32), "JPEG", "CMYK")}, r"/pets/test/cat/0.jpg has the colours CMYK; save it"),
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
