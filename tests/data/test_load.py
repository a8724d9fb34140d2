import hashlib
import shutil
from pathlib import Path

import pytest
from made_images import image_folder

from replicate.data import available, labels_at_hand, load, load_for, load_test_labels
from replicate.data.dataset import fingerprint
from replicate.errors import UsageError
from replicate.run import Run


@pytest.mark.parametrize("name", ["cifar1000", "folder:", "Synthetic"])
def test_an_unknown_name_is_answered_with_the_choices(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown dataset .*; choose from: cifar10, cifar100, mnist, synth"):
        load(name, tmp_path)


def test_labels_of_data_sets_and_of_their_test_images(pets: Path) -> None:
    data_dir = pets.parent
    shutil.copytree(pets, data_dir / "cifar10-jpeg")
    jpeg = ("folder:cifar10-jpeg", "CIFAR-10 (JPEG mirror)")
    for name, label in (("folder:pets", "pets"), jpeg, ("synthetic", "synthetic shapes")):
        dataset = load(name, data_dir)
        assert dataset.label == label
        for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
            assert not array.flags.writeable
        for read in (load_test_labels, labels_at_hand):
            for validation in (0, 2):
                tested = load_for(Run("lsuv", "relu", dataset=name, validation=validation), data_dir).test_labels
                assert read(name, validation, data_dir).tolist() == tested.tolist()
                assert validation in (0, len(tested))
    assert labels_at_hand("cifar10", 0, data_dir) is None  # it would be downloaded
    assert labels_at_hand("mnist", 0, data_dir) is None
    assert labels_at_hand("folder:birds", 0, data_dir) is None
    with pytest.raises(UsageError, match="no data set 'birds'"):
        load_test_labels("folder:birds", 0, data_dir)
    # A file that is counted as an image would shift the labels.
    (pets / "test" / "cat" / "notes.txt").touch()
    with pytest.raises(UsageError, match=r"notes\.txt is not a PNG or JPEG file"):
        load_test_labels("folder:pets", 0, data_dir)


def test_a_model_that_takes_other_images_is_refused(pets: Path) -> None:
    run = Run("lsuv", "relu", dataset="folder:pets", model="mnist_fitnet")
    with pytest.raises(UsageError) as caught:
        load_for(run, pets.parent)
    problem = "the images of folder:pets have 3×32×32 values, and model mnist_fitnet takes 1×28×28"
    assert str(caught.value).startswith(f"{problem}; for these images choose model from: fitnet4, ")
    assert "mnist_fitnet" not in str(caught.value).partition("choose")[2]


def test_progress_reaches_the_decoder(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    image_folder(tmp_path / "pets", train=500, test=2)
    for _ in range(2):
        load("folder:pets", tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(500, 502), (502, 502)]  # nothing more once the images are cached


def test_available(pets: Path, tmp_path: Path) -> None:
    assert available(tmp_path / "nowhere") == [
        *((name, False) for name in ("cifar10", "cifar100", "mnist")),
        ("synthetic", True),
    ]
    data_dir = pets.parent
    for name in ("birds", "esc\x1b[2J", "a b", "-x"):  # most of them cannot be typed as folder:NAME
        shutil.copytree(pets, data_dir / name)
    (data_dir / "half" / "train").mkdir(parents=True)
    (data_dir / "cifar-10-python.tar.gz").touch()
    names = ("cifar10", "cifar100", "mnist", "synthetic", "folder:birds", "folder:pets")
    assert available(data_dir) == [(name, name not in ("cifar100", "mnist")) for name in names]


def test_fingerprint_is_the_sha256_of_the_sorted_lines() -> None:
    digest = hashlib.sha256(b"test/b/1.png 22\ntrain/a/\xff.png 11\n").hexdigest()
    assert fingerprint(["train/a/\udcff.png 11", "test/b/1.png 22"]) == digest  # a name that is not valid UTF-8
