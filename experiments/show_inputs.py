"""What each preprocessing and each augmentation does to the same eight images: python experiments/show_inputs.py

OUT gets inputs.png. Preprocessings take their statistics from the whole training set, so whitening takes minutes.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import track
from script import make_app, make_folder, run_app
from torch import Tensor

from replicate.data import load
from replicate.data.augmentation import Augmentation
from replicate.data.batches import BatchStream
from replicate.data.dataset import Dataset
from replicate.isolation import isolate
from replicate.names import PREPROCESSINGS, resolve
from replicate.options import DATA_DIR
from replicate.run import Run

app = make_app("show_inputs", __doc__)
IMAGES = 8
# Name -> settings that switch on only this augmentation
AUGMENTATIONS: dict[str, dict[str, object]] = {
    "mirror": {"pad": 0},
    "crop (pad 8)": {"mirror": False},
    "zoom 0.3": {"pad": 0, "mirror": False, "zoom": 0.3},
    "colour jitter 0.4": {"pad": 0, "mirror": False, "colour_jitter": 0.4},
    "cutout 12": {"pad": 0, "mirror": False, "cutout": 12},
}
Row = tuple[str, Tensor]  # name; images (8, 3, h, w)


def pick(dataset: Dataset) -> Tensor:
    """Return the index of a training image of each of the first classes, eight in all."""
    labels = torch.tensor(dataset.train_labels)
    classes, picked = min(IMAGES, len(dataset.classes)), []
    for number in range(IMAGES):
        mine = (labels == number % classes).nonzero()
        picked.append(int(mine[number // classes % len(mine)]))
    return torch.tensor(picked)


def preprocessed(dataset: Dataset) -> Iterator[Row]:
    """Yield the eight images as each preprocessing makes them."""
    picked = pick(dataset)
    for name, path in PREPROCESSINGS.items():
        inputs, _ = resolve(path)(dataset.train_images, dataset.test_images)
        yield name, inputs[picked]


def augmented(images: Tensor) -> Iterator[Row]:
    """Yield the eight images as each augmentation changes them, always with the same random numbers."""
    for name, settings in AUGMENTATIONS.items():
        run = Run("lsuv", "relu", **settings)  # type: ignore[arg-type]
        _, *drawn = next(BatchStream(IMAGES, IMAGES, torch.Generator().manual_seed(3), run.pad))
        yield name, Augmentation(run, float(images.std(correction=0)))(images, *drawn)


def picture(rows: list[Row], path: Path) -> None:
    """Draw one row of images per preprocessing and augmentation; grey is 0 where values can be negative."""
    import matplotlib.pyplot as plt  # here, after `isolate`
    import seaborn as sns

    plt.rcdefaults()  # not the user's settings
    sns.set_theme(context="notebook", style="white")
    figure, axes = plt.subplots(len(rows), IMAGES, figsize=(1.05 * IMAGES + 4, 1.05 * len(rows)), layout="constrained")
    for (name, images), line in zip(rows, axes, strict=True):
        deviation = float(images.std())
        shown = images if name == "none" else 0.5 + images / (5 * deviation)
        for image, ax in zip(shown, line, strict=True):
            ax.imshow(np.clip(image.permute(1, 2, 0).numpy(), 0, 1), cmap="gray")  # c h w -> h w c
            ax.set(xticks=[], yticks=[])
        label = f"{name}\nmean {float(images.mean()):.2f}, deviation {deviation:.2f}"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(
        "The same images after each preprocessing, and after each augmentation (of channel-mean)", fontsize=11
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


@app.default
def show_inputs(
    *,
    dataset: str = "cifar10",
    data_dir: Annotated[Path, Parameter(show_default=True)] = DATA_DIR,
    out: Path = Path("results/local/inputs"),
) -> None:
    """Draw the picture.

    Args:
        dataset: cifar10, cifar100, mnist, synthetic or folder:NAME.
        data_dir: Folder of the data sets.
        out: Output folder.
    """
    console = Console()
    isolate()
    make_folder(out)
    loaded = load(dataset, data_dir)
    rows = list(track(preprocessed(loaded), "preprocessing", len(PREPROCESSINGS), console=console))
    rows += augmented(dict(rows)["channel-mean"])
    picture(rows, out / "inputs.png")
    console.print(f"wrote {out / 'inputs.png'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_app(app))
