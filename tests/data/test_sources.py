from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.data.sources import SOURCES, available, labels_at_hand, load, load_test_labels
from replicate.errors import UsageError
from replicate.run import DATASETS


def test_the_registry_has_the_names_that_runs_know():
    assert tuple(SOURCES) == DATASETS


@pytest.mark.parametrize("name", ["cifar100", "folder", "folder:", "", "Synthetic"])
def test_an_unknown_name_is_answered_with_the_choices(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"unknown dataset .*; choose from: cifar10, synthetic, folder:NAME"):
        load(name, tmp_path)


def test_labels(write_folder: Callable[..., Path]):
    root = write_folder("cat", "dog")
    write_folder("cat", "dog", name="cifar10-jpeg")
    assert load("folder:pets", root.parent).label == "pets"
    assert load("folder:cifar10-jpeg", root.parent).label == "CIFAR-10 (JPEG mirror)"
    assert load("synthetic", root.parent).label == "synthetic shapes"


def test_test_labels(write_folder: Callable[..., Path], tmp_path: Path):
    data = write_folder("cat", "dog").parent
    for name in ("folder:pets", "synthetic"):
        labels = load(name, data).test_labels.tolist()
        assert load_test_labels(name, data).tolist() == labels_at_hand(name, data).tolist() == labels
    assert labels_at_hand("cifar10", data) is None  # it would be downloaded
    assert labels_at_hand("folder:birds", data) is None
    with pytest.raises(UsageError, match="no data set 'birds'"):
        load_test_labels("folder:birds", data)


def test_progress_reaches_the_decoder(write_folder: Callable[..., Path]):
    told: list[tuple[int, int]] = []
    load("folder:pets", write_folder("cat", "dog").parent, lambda done, total: told.append((done, total)))
    assert told == [(10, 10)]


def test_available(write_folder: Callable[..., Path], tmp_path: Path):
    assert available(tmp_path / "nowhere") == [("cifar10", False), ("synthetic", True)]
    data = write_folder("cat", "dog").parent
    write_folder("cat", "dog", name="birds")
    (data / "half" / "train").mkdir(parents=True)
    (data / "cifar-10-python.tar.gz").touch()
    assert available(data) == [("cifar10", True), ("synthetic", True), ("folder:birds", True), ("folder:pets", True)]
