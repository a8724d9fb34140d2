"""experiments/jpeg_cost.py from images to page, on a few drawn ones."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from replicate.store.result import read_result

ROOT = Path(__file__).parents[1]
SIZES = ["width=0.125", "iterations=2", "milestones=[1]", "batch_size=4", "lsuv_batch_size=4", "precision=32-true"]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for index in range(8):
            patches = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(patches).resize((32, 32), Image.Resampling.NEAREST)
            for name, file in (("cifar10-lossless-6k", f"{index:05}.png"), ("cifar10-jpeg", f"{index // 2:04}.jpg")):
                folder = tmp_path / "data" / name / split / ("cat", "dog")[index % 2]
                folder.mkdir(parents=True, exist_ok=True)
                image.save(folder / file)
    return tmp_path / "data"


def cost(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "jpeg_cost.py"), "--data-dir", str(data_dir)]
    command += ["--out", str(data_dir.parent / "out"), "--seeds", "0,1", "--wandb", "off", "--devices", "cpu", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REPLICATE_CACHE": str(data_dir.parent / "cache")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_from_images_to_page(data_dir: Path) -> None:
    done = cost(data_dir, "--set", *SIZES)
    assert done.returncode == 0, done.stderr
    out = data_dir.parent / "out"
    page = (out / "jpeg_cost.md").read_text()
    assert "8 training and 8 test images" in page
    assert "fitnet4 at width 0.125, 32-true." in page
    assert "| 0 | " in page
    assert "| 1 | " in page
    assert str(data_dir.parent) not in page
    records = [read_result(path) for path in out.glob("runs/*/result.json")]
    assert sorted((one.run.seed, one.data_label) for one in records) == [
        (seed, f"cifar10-part-{kind}") for seed in (0, 1) for kind in ("jpeg", "lossless")
    ]
    assert len({one.fingerprint for one in records}) == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    again = cost(data_dir, "--set", *SIZES)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")} == before
    assert (out / "jpeg_cost.md").read_text() == page


def test_numbers_that_disagree_with_the_pixels_are_refused(data_dir: Path) -> None:
    folder = data_dir / "cifar10-jpeg" / "train" / "cat"
    (folder / "0001.jpg").rename(folder / "x.jpg")
    (folder / "0002.jpg").rename(folder / "0001.jpg")
    (folder / "x.jpg").rename(folder / "0002.jpg")
    done = cost(data_dir, "--set", *SIZES)
    assert done.returncode == 2
    assert "at odds with the official order" in done.stderr
    assert not (data_dir.parent / "out").exists()


def test_the_data_sets_are_not_the_users_choice(data_dir: Path) -> None:
    done = cost(data_dir, "--set", "dataset=cifar10")
    assert done.returncode == 2
    assert done.stderr.strip() == "jpeg_cost: the data sets are made here; leave dataset out of --set"
