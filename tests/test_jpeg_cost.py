"""experiments/jpeg_cost.py and its parts: which copy belongs to which image, the paired runs, and the page."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import jpeg_cost
import numpy as np
import pytest
from jpeg_matching import Match, lay_out, match, misnumbered, summary
from jpeg_pairs import Pair, difference, page, pair_up, verdict
from made_images import image_folder, jpeg_copies
from made_up_records import make_result
from PIL import Image
from script import run_app

from replicate.data import folder
from replicate.errors import UsageError
from replicate.run import Run
from replicate.store.result import read_result

SIZES = ["width=0.125", "iterations=2", "milestones=[1]", "batch_size=4", "lsuv_batch_size=4", "precision=32-true"]
EXACT, LOSSY = "folder:exact", "folder:jpeg"
RUN = Run("lsuv", "tanh", dataset=EXACT, width=0.25, iterations=1000, milestones=(444, 667))


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Ten images of each class and split as JPEG, half of them also with exact pixels."""
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    exact = image_folder(tmp_path / "data" / jpeg_cost.EXACT, train=20, test=20)
    copies = jpeg_copies(exact, tmp_path / "data" / jpeg_cost.COPIES)
    for path in exact.rglob("*.png"):
        if int(path.stem) % 4 >= 2:  # 0, 1, 4, 5, … stay
            path.unlink()
    return exact, copies


def test_from_images_to_page(roots: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_dir, out = tmp_path / "data", tmp_path / "out"
    # options of its own, and others that it passes on
    words = ["--data-dir", str(data_dir), "--out", str(out), "--seeds", "3", "--wandb", "off"]
    words += ["--set", *SIZES, "--devices", "cpu"]
    assert run_app(jpeg_cost.app, words) == 0
    text = (out / "jpeg_cost.md").read_text()
    assert "10 training and 10 test images" in text
    assert "fitnet4 at width 0.125, 32-true." in text
    assert "| 3 | " in text
    command = f"--data-dir DIR --seeds 3 --set {' '.join(SIZES)} --wandb off --devices cpu`"
    assert command.replace("milestones=[1]", "'milestones=[1]'") in text
    results = [read_result(path) for path in out.glob("runs/*/result.json")]
    assert {one.run.seed for one in results} == {3}
    assert {one.data_label for one in results} == {"cifar10-part-jpeg", "cifar10-part-lossless"}
    assert len({one.fingerprint for one in results}) == 2

    cats = roots[1] / "train" / "cat"
    (cats / "0008.jpg").rename(cats / "0099.jpg")
    assert run_app(jpeg_cost.app, words) == 2
    assert "contradict the official order" in capsys.readouterr().err


def test_every_image_finds_its_copy(roots: tuple[Path, Path]) -> None:
    found = match(*roots)
    assert len(found) == 20
    for one in found:
        number = int(one.exact.stem)
        kind = ("cat", "dog")[number % 2]
        assert one.copy.relative_to(roots[1]).as_posix() == f"{one.split}/{kind}/{number // 2:04}.jpg"
        ours, theirs = (np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (one.exact, one.copy))
        assert one.error == pytest.approx(np.square(ours - theirs).mean())
        assert one.psnr == pytest.approx(20 * np.log10(255) - 10 * np.log10(one.error))
        assert one.ratio == one.second / one.error > 2
    assert misnumbered(found) == []
    assert f"at least {min(one.ratio for one in found):.2f} times" in summary(found, "copies")
    assert summary([replace(found[0], error=0.0)], "copies").endswith("PSNR of the copies: inf dB.")  # no division by 0


def test_ambiguous_data_sets_are_refused(roots: tuple[Path, Path]) -> None:
    exact, copies = roots
    image = exact / "train" / "dog" / "00001.png"
    double = shutil.copy(image, image.with_name("00003.png"))
    with pytest.raises(UsageError, match=r"00001\.png and .*00003\.png both match .*train/dog/0000\.jpg"):
        match(*roots)
    Path(double).unlink()
    copy = copies / "train" / "dog" / "0000.jpg"
    shutil.copy(copy, copy.with_name("0099.jpg"))
    with pytest.raises(UsageError, match=r"1 images have no clear match; the first is .*train/dog/00001\.png"):
        match(*roots)
    for split in folder.SPLITS:
        (copies / split / "dog").rename(copies / split / "fox")
    with pytest.raises(UsageError, match="have different classes"):
        match(*roots)


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
    a, b = (folder.load(name, tmp_path / "made") for name in "ab")
    original = folder.load(roots[0].name, roots[0].parent)
    np.testing.assert_array_equal(a.train_images, original.train_images)
    np.testing.assert_array_equal(a.test_images, original.test_images)
    np.testing.assert_array_equal(b.test_images, original.test_images)
    np.testing.assert_array_equal(a.train_labels, b.train_labels)
    errors = np.square(a.train_images.astype(float) - b.train_images).mean((1, 2, 3))
    np.testing.assert_allclose(errors, [one.error for one in found if one.split == "train"])
    assert a.fingerprint == original.fingerprint != b.fingerprint


def pairs_of(*both: tuple[float | None, float | None]) -> tuple[Pair, ...]:
    """Pairs of seeds 0, 1, … with these accuracies on exact and on lossy images."""
    results = [
        make_result(replace(RUN, seed=seed, dataset=name), accuracy)
        for seed, accuracies in enumerate(both)
        for name, accuracy in zip((EXACT, LOSSY), accuracies, strict=True)
    ]
    return pair_up(reversed(results), EXACT, LOSSY)


def test_difference_by_hand() -> None:
    found = difference(pairs_of((60.0, 59.0), (62.0, 60.0), (61.0, 58.0)))
    assert found is not None
    assert found.value == -2  # of -1, -2, -3, whose standard deviation is 1
    assert found.half == pytest.approx(4.302653 / math.sqrt(3))  # t table, 2 degrees of freedom
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t**2))  # closed form for 2 degrees of freedom


def test_pairs_of_which_one_did_not_converge_are_left_out_and_named() -> None:
    pairs = pairs_of((60.0, 59.0), (10.0, 60.0), (61.0, None), (62.0, 60.0))
    found = difference(pairs)
    assert found is not None
    assert found.value == -1.5
    text = page(pairs, "some images", "a command")
    assert "| 1 | 10.00 n/c | 60.00 | – |" in text
    assert "| 2 | 61.00 | diverged | – |" in text
    assert "| mean of 2 | 61.00 | 59.50 | −1.50 |" in text
    assert "not both runs converged: seed 1, 2." in text


def test_one_pair_is_too_few() -> None:
    pairs = pairs_of((60.0, 59.0))
    assert difference(pairs) is None
    assert "At least two are needed" in page(pairs, "", "")
    assert "| mean of 0 |  |  | – |" in page(pairs_of((None, 59.0)), "", "")


@pytest.mark.parametrize(
    ("both", "words"),
    [
        (((60.0, 59.0), (61.0, 60.1)), "cost accuracy"),  # -1.0, -0.9
        (((59.0, 60.0), (60.1, 61.0)), "gave the higher accuracy"),
        (((60.0, 59.0), (60.0, 61.0)), "from a cost of 12.71 points to a gain of 12.71"),  # ± 12.706 · √2 / √2
    ],
)
def test_verdict(both: tuple[tuple[float, float], ...], words: str) -> None:
    assert words in verdict(difference(pairs_of(*both)), 2)


def test_only_finished_runs_of_one_cell_that_differ_only_in_the_data_are_paired() -> None:
    lossy = replace(RUN, dataset=LOSSY)
    failed = replace(make_result(lossy, 60.0), status="error", test_accuracy=None)
    for other in (failed, make_result(replace(lossy, seed=1), 60.0), make_result(replace(lossy, lr=0.1), 60.0)):
        with pytest.raises(UsageError, match="no seed has finished on both folder:exact and folder:jpeg"):
            pair_up([make_result(RUN, 60.0), other], EXACT, LOSSY)
    runs = [replace(RUN, dataset=name, lr=lr) for name in (EXACT, LOSSY) for lr in (0.01, 0.02)]
    with pytest.raises(UsageError, match="differ by more than their seed"):
        pair_up([make_result(run, 60.0) for run in runs], EXACT, LOSSY)
