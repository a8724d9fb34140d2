"""experiments/jpeg_matching.py: which copy belongs to which image, and both data sets."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from jpeg_matching import Match, lay_out, match, misnumbered, nearest, summary
from made_images import image_folder, jpeg_copies
from PIL import Image

from replicate.data import folder
from replicate.errors import UsageError

KINDS = ("cat", "dog")


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Ten images of each class and split as JPEG, half of them also with exact pixels."""
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    exact = image_folder(tmp_path / "exact", train=20, test=20)
    copies = jpeg_copies(exact, tmp_path / "copies")
    for path in exact.rglob("*.png"):
        if int(path.stem) % 4 >= 2:  # 0, 1, 4, 5, … stay
            path.unlink()
    return exact, copies


def test_nearest_by_hand() -> None:
    images = np.array([[0, 0], [10, 10]], dtype=np.uint8)
    copies = np.array([[9, 7], [1, 3], [10, 255]], dtype=np.uint8)
    index, best, second = nearest(images, copies)
    assert index.tolist() == [1, 0]
    assert best.tolist() == [5, 5]  # (1² + 3²) / 2, (1² + 3²) / 2
    assert second.tolist() == [65, 65]  # (9² + 7²) / 2, (9² + 7²) / 2


def test_every_image_finds_its_copy(roots: tuple[Path, Path]) -> None:
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


def test_ambiguous_data_sets_are_refused(roots: tuple[Path, Path]) -> None:
    exact, copies = roots
    image = exact / "train" / "dog" / "00001.png"
    double = shutil.copy(image, image.with_name("00003.png"))
    with pytest.raises(UsageError, match=r"00001\.png and .*00003\.png both match .*train/dog/0000\.jpg"):
        match(*roots)
    Path(double).unlink()
    copy = copies / "train" / "dog" / "0000.jpg"
    shutil.copy(copy, copy.with_name("0009.jpg"))
    with pytest.raises(UsageError, match=r"1 images have no clear match; the first is .*train/dog/00001\.png"):
        match(*roots)
    for split in folder.SPLITS:
        (copies / split / "dog").rename(copies / split / "fox")
    with pytest.raises(UsageError, match="have different classes"):
        match(*roots)


def test_an_error_of_zero() -> None:
    same = Match("train", "cat", Path("0.png"), Path("0.jpg"), 0.0, 9.0)
    assert same.clear
    assert same.ratio == same.psnr == float("inf")
    assert not Match("train", "cat", Path("0.png"), Path("0.jpg"), 0.0, 0.0).clear
    assert not Match("train", "cat", Path("0.png"), Path("0.jpg"), 4.0, 8.0).clear  # not more than twice as large


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        # official numbers 0 to 3, then 10 to 12: cats 0, 2 | 11, 12; dogs 1, 3 | 10
        (((0, 2, 11, 12), (0, 1, 5, 6)), []),
        (((0, 2, 11, 12), (0, 1, 2, 3)), []),  # no cat in the gap
        (((0, 2, 11, 12), (0, 1, 10, 11)), []),  # 4 to 9 are all cats; the check does not see that 10 is a dog
        (((0, 2, 11, 12), (0, 1, 11, 12)), [11]),  # more cats than fit
        (((0, 2, 11, 12), (0, 2, 5, 6)), [2]),  # a copy is missing, but no image
        (((0, 2, 11, 12), (0, 1, 6, 5)), [12]),  # swapped
        (((0, 2, 11, 12), (1, 2, 5, 6)), [0]),  # the first cat is not the first
    ],
)
def test_contradicting_numbers_are_found(rows: tuple[tuple[int, ...], tuple[int, ...]], wrong: list[int]) -> None:
    cats = [(number, "cat", copy) for number, copy in zip(*rows, strict=True)]
    dogs = [(1, "dog", 0), (3, "dog", 1), (10, "dog", 4)]
    found = [Match("train", kind, Path(f"{a}.png"), Path(f"{b}.jpg"), 1.0, 9.0) for a, kind, b in (*dogs, *cats)]
    assert [int(one.exact.stem) for one in misnumbered(found)] == wrong


def test_both_data_sets_are_the_same_images_in_the_same_order(roots: tuple[Path, Path], tmp_path: Path) -> None:
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
