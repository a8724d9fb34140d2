"""experiments/jpeg_cost.py from images to page, on a few generated ones."""

from pathlib import Path

import jpeg_cost
import pytest
from made_images import image_folder, jpeg_copies
from script import run_app

from replicate.errors import UsageError
from replicate.store.result import read_result

SIZES = ["width=0.125", "iterations=2", "milestones=[1]", "batch_size=4", "lsuv_batch_size=4", "precision=32-true"]


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    images = image_folder(tmp_path / "data" / "cifar10-lossless-6k", train=8, test=8)
    return jpeg_copies(images, tmp_path / "data" / "cifar10-jpeg").parent


def run(data_dir: Path, *settings: str) -> int:
    """Call the script, with options of its own and others that it passes on."""
    words = ["--data-dir", str(data_dir), "--out", str(data_dir.parent / "out"), "--seeds", "3", "--wandb", "off"]
    return run_app(jpeg_cost.app, [*words, "--set", *settings, "--devices", "cpu"], (UsageError,))


def test_from_images_to_page(data_dir: Path) -> None:
    assert run(data_dir, *SIZES) == 0
    page = (data_dir.parent / "out" / "jpeg_cost.md").read_text()
    assert "8 training and 8 test images" in page
    assert "fitnet4 at width 0.125, 32-true." in page
    assert "| 3 | " in page
    command = f"--data-dir DIR --seeds 3 --set {' '.join(SIZES)} --wandb off --devices cpu`"
    assert command.replace("milestones=[1]", "'milestones=[1]'") in page
    results = [read_result(path) for path in data_dir.parent.glob("out/runs/*/result.json")]
    assert {(one.run.seed, one.data_label) for one in results} == {
        (3, "cifar10-part-jpeg"),
        (3, "cifar10-part-lossless"),
    }
    assert len({one.fingerprint for one in results}) == 2


def test_numbers_that_contradict_the_pixels_are_refused(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_dir / "cifar10-jpeg" / "train" / "cat"
    (folder / "0001.jpg").rename(folder / "x.jpg")
    (folder / "0002.jpg").rename(folder / "0001.jpg")
    (folder / "x.jpg").rename(folder / "0002.jpg")
    assert run(data_dir, *SIZES) == 2
    assert "contradict the official order" in capsys.readouterr().err
    assert not (data_dir.parent / "out").exists()
