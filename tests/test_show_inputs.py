"""experiments/show_inputs.py: the rows of its picture, and a run."""

from pathlib import Path

import pytest
import show_inputs
import torch
from script import run_app

from replicate.data import synthetic
from replicate.names import PREPROCESSINGS


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "TRAIN", 100)
    monkeypatch.setattr(synthetic, "TEST", 20)
    for name in ("pca-whitening", "zca-whitening"):  # 3,072 dimensions take half a minute
        monkeypatch.delitem(PREPROCESSINGS, name)


def test_one_row_per_preprocessing_and_augmentation_of_the_same_images() -> None:
    dataset = synthetic.load("synthetic", Path())
    rows = dict(show_inputs.preprocessed(dataset))
    assert rows.keys() == PREPROCESSINGS.keys()
    assert dataset.train_labels[show_inputs.pick(dataset)].tolist() == list(range(8))
    pixels = torch.tensor(dataset.train_images[show_inputs.pick(dataset)])
    assert torch.equal((rows["none"] * 255).round().byte(), pixels)
    changed = dict(show_inputs.augmented(rows["channel-mean"]))
    assert changed.keys() == show_inputs.AUGMENTATIONS.keys()
    assert all((images != rows["channel-mean"]).any() for images in changed.values())
    flipped = (changed["mirror"] == rows["channel-mean"].flip(3)).flatten(1).all(1)
    assert 0 < flipped.sum() < 8


def test_it_writes_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(show_inputs.app, ["--dataset", "synthetic", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "inputs.png").stat().st_size > 50_000
    assert run_app(show_inputs.app, ["--dataset", "folder:none", "--data-dir", str(tmp_path)]) == 2
    assert "no data set 'none'" in capsys.readouterr().err
