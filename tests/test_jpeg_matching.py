"""experiments/jpeg_matching.py: which copy belongs to which image, and both data sets."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from jpeg_matching import Match, lay_out, match, misnumbered, nearest, summary
from PIL import Image

from replicate.data import folder
from replicate.errors import UsageError

KINDS = ("cat", "dog")


def drawn(rng: np.random.Generator) -> Image.Image:
    """A picture of a few large patches: JPEG leaves it recognisable."""
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32), Image.Resampling.NEAREST)


@pytest.fixture(autouse=True)
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Ten images of each class and split as JPEG, every other of which there is with exact pixels as well."""
    rng = np.random.default_rng(0)
    exact, copies = tmp_path / "exact", tmp_path / "copies"
    for split in folder.SPLITS:
        for kind in KINDS:
            for root in (exact, copies):
                (root / split / kind).mkdir(parents=True)
        for index in range(20):
            image, kind = drawn(rng), KINDS[index % 2]
            image.save(copies / split / kind / f"{index // 2:04}.jpg", quality=60)
            if index % 4 < 2:  # 0, 1, 4, 5, …
                image.save(exact / split / kind / f"{index:05}.png")
    return exact, copies


def test_nearest_by_hand():
    images = np.array([[0, 0], [10, 10]], dtype=np.uint8)
    copies = np.array([[9, 7], [1, 3], [10, 255]], dtype=np.uint8)
    index, best, second = nearest(images, copies)
    assert index.tolist() == [1, 0]
    assert best.tolist() == [5, 5]  # (1² + 3²) / 2, (1² + 3²) / 2
    assert second.tolist() == [65, 65]  # (9² + 7²) / 2, (9² + 7²) / 2


def test_nearest_agrees_with_plain_differences():
    rng = np.random.default_rng(1)
    images, copies = (rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for n in (7, 12))
    errors = ((images[:, None].astype(float) - copies[None]) ** 2).mean((2, 3, 4))
    index, best, second = nearest(images, copies)
    np.testing.assert_array_equal(index, errors.argmin(1))
    np.testing.assert_allclose(np.stack([best, second]), np.sort(errors, 1)[:, :2].T, rtol=1e-12)


def test_every_image_finds_its_copy(roots: tuple[Path, Path]):
    found = match(*roots)
    assert len(found) == 20
    for one in found:
        number = int(one.exact.stem)
        assert one.copy.relative_to(roots[1]).as_posix() == f"{one.split}/{KINDS[number % 2]}/{number // 2:04}.jpg"
        ours, theirs = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (one.exact, one.copy))
        assert one.error == pytest.approx(np.square(ours - theirs).mean())
        assert one.psnr == pytest.approx(20 * np.log10(255) - 10 * np.log10(one.error))
        assert one.ratio == one.second / one.error > 2
    assert misnumbered(found) == []
    assert "10 training and 10 test images" in summary(found, "copies")
    assert f"at least {min(one.ratio for one in found):.2f} times" in summary(found, "copies")


def test_two_copies_alike_are_refused(roots: tuple[Path, Path]):
    exact, copies = roots
    shutil.copy(copies / "train" / "dog" / "0000.jpg", copies / "train" / "dog" / "0009.jpg")
    with pytest.raises(UsageError, match=r"1 images have no clear match; the first is .*train/dog/00001\.png"):
        match(exact, copies)


def test_two_images_alike_are_refused(roots: tuple[Path, Path]):
    exact, copies = roots
    shutil.copy(exact / "train" / "dog" / "00001.png", exact / "train" / "dog" / "00003.png")
    with pytest.raises(UsageError, match=r"00001\.png and .*00003\.png both match .*train/dog/0000\.jpg"):
        match(exact, copies)


def test_other_classes_are_refused(roots: tuple[Path, Path]):
    exact, copies = roots
    for split in folder.SPLITS:
        (copies / split / "dog").rename(copies / split / "fox")
    with pytest.raises(UsageError, match="have different classes"):
        match(exact, copies)


def test_a_class_with_one_copy_is_refused():
    with pytest.raises(UsageError, match="fewer than two copies"):
        nearest(np.zeros((3, 4), dtype=np.uint8), np.zeros((1, 4), dtype=np.uint8))


def test_an_error_of_zero():
    same = Match("train", "cat", Path("0.png"), Path("0.jpg"), 0.0, 9.0)
    assert same.clear
    assert same.ratio == same.psnr == float("inf")
    assert not Match("train", "cat", Path("0.png"), Path("0.jpg"), 0.0, 0.0).clear
    assert not Match("train", "cat", Path("0.png"), Path("0.jpg"), 4.0, 8.0).clear  # more than twice is asked for


def numbered(*rows: tuple[int, str, int]) -> list[Match]:
    """Matches of official number, class, and number of the copy."""
    return [Match("train", kind, Path(f"{a}.png"), Path(f"{b}.jpg"), 1.0, 9.0) for a, kind, b in rows]


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        # official numbers 0 to 3, then 10 to 12: cats 0, 2 | 11, 12; dogs 1, 3 | 10
        (((0, 2, 11, 12), (0, 1, 5, 6)), []),
        (((0, 2, 11, 12), (0, 1, 2, 3)), []),  # no cat in the gap
        (((0, 2, 11, 12), (0, 1, 10, 11)), []),  # 4 to 9 all cats, and 10 as well as far as this check can tell
        (((0, 2, 11, 12), (0, 1, 11, 12)), [11]),  # more cats than there is room for
        (((0, 2, 11, 12), (0, 2, 5, 6)), [2]),  # a copy left out where no image is missing
        (((0, 2, 11, 12), (0, 1, 6, 5)), [12]),  # swapped
        (((0, 2, 11, 12), (1, 2, 5, 6)), [0]),  # the first cat is not the first
    ],
)
def test_numbers_that_disagree_are_found(rows: tuple[tuple[int, ...], tuple[int, ...]], wrong: list[int]):
    cats = [(number, "cat", copy) for number, copy in zip(*rows, strict=True)]
    dogs = [(1, "dog", 0), (3, "dog", 1), (10, "dog", 4)]
    assert [int(one.exact.stem) for one in misnumbered(numbered(*cats, *dogs)[::-1])] == wrong


def test_names_that_are_no_numbers():
    with pytest.raises(UsageError, match=r"x\.png is not named by a number"):
        misnumbered([Match("train", "cat", Path("x.png"), Path("0.jpg"), 1.0, 9.0)])


def test_both_data_sets_are_the_same_images_in_the_same_order(roots: tuple[Path, Path], tmp_path: Path):
    found = match(*roots)
    lay_out(found, tmp_path / "made" / "a", tmp_path / "made" / "b")
    a, b = (folder.read(tmp_path / "made" / name, name) for name in "ab")
    original = folder.read(roots[0], "exact")
    np.testing.assert_array_equal(a.train_images, original.train_images)
    np.testing.assert_array_equal(a.test_images, original.test_images)
    np.testing.assert_array_equal(b.test_images, original.test_images)
    np.testing.assert_array_equal(a.train_labels, b.train_labels)
    errors = np.square(a.train_images.astype(float) - b.train_images).mean((1, 2, 3))
    np.testing.assert_allclose(errors, [one.error for one in found if one.split == "train"])
    assert a.fingerprint == original.fingerprint != b.fingerprint


def test_folders_that_are_there_are_left_alone_or_refused(roots: tuple[Path, Path], tmp_path: Path):
    found = match(*roots)
    a, b = tmp_path / "made" / "a", tmp_path / "made" / "b"
    lay_out(found, a, b)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    lay_out(found, a, b)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before
    (b / "train" / "cat" / "00000.jpg").unlink()
    with pytest.raises(UsageError, match="made/b holds other images"):
        lay_out(found, a, b)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["a", "b"]


@pytest.mark.skipif(
    "REPLICATE_TEST_IMAGES" not in os.environ, reason="REPLICATE_TEST_IMAGES names no folder with real images"
)
def test_real_images(tmp_path: Path):
    source = Path(os.environ["REPLICATE_TEST_IMAGES"])
    for name, ends in (("cifar10-lossless-6k", 20), ("cifar10-jpeg", 60)):  # the first 20 images lie in the first 60
        for kind in ("airplane", "dog"):
            for split in folder.SPLITS:
                target = tmp_path / name / split / kind
                target.mkdir(parents=True)
                for path in sorted((source / name / split / kind).iterdir())[:ends]:
                    shutil.copy2(path, target)
    found = match(tmp_path / "cifar10-lossless-6k", tmp_path / "cifar10-jpeg")
    assert len(found) == 80
    # the first images of a class are the first of its copies: an order that knows nothing of the pixels
    for split in folder.SPLITS:
        for kind in ("airplane", "dog"):
            mine = sorted((one for one in found if (one.split, one.kind) == (split, kind)), key=lambda one: one.exact)
            assert [int(one.copy.stem) for one in mine] == list(range(20))
    assert np.mean([one.psnr for one in found]) == pytest.approx(30.5, abs=1.5)
