"""What an initialisation does to a deep net, in a minute: python experiments/demo.py (`make demo`)

Fully connected nets of 20 hidden layers with 64 units learn the embedded shapes, averaged to 16 x 16 pixels and
standardised, with seven activations. Each starts from PyTorch's default weights, from three formulas, and from LSUV.
The rest of the recipe is always the same: SGD with learning rate 0.01 and momentum 0.9, 300 iterations of 128 images,
three seeds. This is not the paper's experiment: nets, images and recipe are our choice.

OUT gets demo.png and demo.csv with the accuracy of each training.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from script import make_app, run_app
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.data import load
from replicate.errors import UsageError, unknown
from replicate.init import LSUVWarning, initialize_, lsuv_
from replicate.nn.activations import VLRELU_SLOPE, Maxout
from replicate.store.result import status_of

WIDTH, BATCH, CLASSES = 64, 128, 10
INITS = {
    "torch": "PyTorch default", "xavier": "Xavier", "msra": "MSRA", "orthonormal": "OrthoNorm", "lsuv": "LSUV"
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "VLReLU": lambda: nn.LeakyReLU(VLRELU_SLOPE),
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "ELU": nn.ELU,
    "tanh": nn.Tanh,
    "maxout": lambda: Maxout(2),
}

app = make_app("demo", __doc__)


@dataclass(frozen=True)
class Training:
    """One training: what it started from, and what came out.

    Args:
        activation: one of ACTIVATIONS.
        init: one of INITS.
        seed: of the weights and of the order of the images.
        variances: of each hidden layer's pre-activations before the training, on the first batch.
        losses: of each iteration's batch, in nats.
        accuracy: on the test images, in %; None if the loss became infinite or NaN.
    """

    activation: str
    init: str
    seed: int
    variances: list[float]
    losses: list[float]
    accuracy: float | None

    @property
    def outcome(self) -> str:
        """How it ended: `converged`, `not_converged` (at chance) or `diverged`."""
        return "diverged" if self.accuracy is None else status_of(self.accuracy, CLASSES)


@cache
def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images (n, 768) and labels (n,), and test images and labels."""
    shapes = load("synthetic", Path())
    train, test = (
        F.avg_pool2d(torch.tensor(images) / 255, 2).flatten(1)  # n 3 32 32 -> n 768
        for images in (shapes.train_images, shapes.test_images)
    )
    mean, deviation = train.mean(), train.std()
    train_labels, test_labels = torch.tensor(shapes.train_labels), torch.tensor(shapes.test_labels)
    return (train - mean) / deviation, train_labels, (test - mean) / deviation, test_labels


def train(activation: str, init: str, seed: int, depth: int, iterations: int) -> Training:
    """Train one net on one thread.

    Args:
        activation: one of ACTIVATIONS.
        init: one of INITS.
        seed: of the weights and of the order of the images.
        depth: number of hidden layers.
        iterations: number of iterations.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = data()
    pieces = 2 if activation == "maxout" else 1
    sizes = [images.shape[1], *[WIDTH] * depth]
    hidden = [(nn.Linear(one, WIDTH * pieces), ACTIVATIONS[activation]()) for one in sizes[:-1]]
    net = nn.Sequential(*(layer for pair in hidden for layer in pair), nn.Linear(WIDTH, CLASSES))

    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(images), generator=generator)[:BATCH] for _ in range(iterations)]
    first = images[batches[0]]
    with warnings.catch_warnings():  # what a formula does to the variances is what we are about to show
        warnings.simplefilter("ignore", LSUVWarning)
        if init == "lsuv":
            lsuv_(net, first, dropout=False, generator=generator)
        elif init != "torch":
            initialize_(net, init, first, generator=generator)
    variances = list(_variances(net, first))

    losses: list[float] = []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for batch in batches:
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return Training(activation, init, seed, variances, losses, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        right = net(test_images).argmax(1) == test_labels
    return Training(activation, init, seed, variances, losses, 100 * right.float().mean().item())


@torch.no_grad()
def _variances(net: nn.Sequential, x: Tensor) -> Iterator[float]:
    for layer in net[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            yield x.var(correction=0).item()


def cell(trainings: pd.DataFrame) -> str:
    """Sum up the seeds of an activation and an initialisation: their mean accuracy, `chance` or `diverged`."""
    outcomes = set(trainings["outcome"])
    if outcomes == {"converged"}:
        return f"{trainings['accuracy'].mean():.0f}"
    return "some fail" if "converged" in outcomes else "diverged" if "diverged" in outcomes else "chance"


def finding(found: pd.DataFrame) -> str:
    """Say in two sentences what trains, and where a formula does as well as LSUV.

    An activation counts as trained if every seed ends above chance. A formula that trains it does as well as LSUV if
    its best seed reaches LSUV's worst one.

    Args:
        found: columns `activation`, `init`, `accuracy` and `outcome`, one row per training.
    """
    grouped = found.groupby(["activation", "init"], sort=False)
    trains = grouped["outcome"].agg(lambda outcomes: (outcomes == "converged").all()).unstack()
    low, high = grouped["accuracy"].min().unstack(), grouped["accuracy"].max().unstack()
    counts = trains.sum()
    formulas = counts.drop("lsuv")
    best = " and ".join(INITS[init] for init in formulas.index[formulas == formulas.max()])
    rivals = []
    for activation in trains.index:
        reaches = trains.loc[activation] & (high.loc[activation] >= low.at[activation, "lsuv"])
        if names := [INITS[init] for init in formulas.index if reaches[init]]:
            rivals.append(f"{activation} ({' and '.join(names)})")
    text = f"LSUV trains {counts['lsuv']} of {len(trains)} activations, no formula more than {formulas.max()} ({best})."
    return f"{text} A formula does as well or better with {', '.join(rivals) or 'none of them'}."


def picture(trainings: list[Training], found: pd.DataFrame, activation: str, path: Path) -> None:
    """Draw the variances and losses of one activation, and the accuracies of all."""
    sns.set_theme(context="notebook", style="whitegrid")
    shown = [one for one in trainings if one.activation == activation]
    variances = pd.DataFrame([
        {"init": INITS[one.init], "layer": layer, "variance": variance}
        for one in shown for layer, variance in enumerate(one.variances, 1)
    ])  # fmt: skip
    losses = pd.DataFrame([
        {"init": INITS[one.init], "iteration": iteration, "loss": loss}
        for one in shown for iteration, loss in enumerate(one.losses)
    ])  # fmt: skip
    losses["iteration"] = losses["iteration"] // 10 * 10 + 5
    names = list(INITS.values())
    style = {"hue": "init", "style": "init", "hue_order": names, "style_order": names, "palette": "colorblind"}
    style |= {"size": "init", "sizes": [*[1.5] * (len(names) - 1), 3.0], "size_order": names, "errorbar": None}

    _, axes = plt.subplots(1, 3, figsize=(16, 4.8), layout="constrained", width_ratios=(1, 1, 1.25))
    sns.lineplot(variances, x="layer", y="variance", **style, ax=axes[0])
    axes[0].set(
        yscale="log",
        xticks=range(0, len(shown[0].variances) + 1, 5),
        xlabel="hidden layer",
        ylabel="variance of the pre-activations",
    )
    axes[0].set_title(f"{activation}: before training")
    axes[0].legend(title=None)
    sns.lineplot(losses, x="iteration", y="loss", **style, legend=False, ax=axes[1])
    axes[1].axhline(math.log(CLASSES), color="0.4", linewidth=0.8)
    axes[1].annotate("chance", (1, math.log(CLASSES)), xytext=(-4, 3), xycoords=("axes fraction", "data"),
                     textcoords="offset points", ha="right", color="0.3")  # fmt: skip
    axes[1].set(ylabel="training loss (nats), mean of 10 iterations", title=f"{activation}: training")
    axes[1].set_ylim(0, 2 * math.log(CLASSES))  # a loss that diverges would hide the others

    grouped = found.groupby(["activation", "init"], sort=False)
    means = grouped["accuracy"].mean().unstack().fillna(0)
    texts = grouped[["accuracy", "outcome"]].apply(cell).unstack()
    sns.heatmap(
        means, annot=texts, fmt="", cmap="Blues", vmin=10, cbar=False, linecolor="0.8", linewidths=1, ax=axes[2]
    )
    axes[2].set_xticklabels([name.replace(" ", "\n") for name in names], rotation=0)
    axes[2].tick_params(axis="y", rotation=0)
    axes[2].set(xlabel="", ylabel="", title="Test accuracy in % (chance is 10)")
    plt.savefig(path, dpi=110)


def table(found: pd.DataFrame) -> Table:
    """Lay out the accuracies for a terminal."""
    made = Table("", *INITS.values(), title="Test accuracy in %; chance is 10")
    texts = found.groupby(["activation", "init"], sort=False)[["accuracy", "outcome"]].apply(cell).unstack()
    for activation, row in texts.iterrows():
        made.add_row(str(activation), *row)
    return made


@app.default
def demo(
    *,
    depth: int = 20,
    activation: str = "VLReLU",
    seeds: int = 3,
    iterations: int = 300,
    processes: int | None = None,
    out: Path = Path("results/local/demo"),
) -> None:
    """Train the nets, print their accuracies, and draw the picture.

    Args:
        depth: Number of hidden layers.
        activation: Activation whose variances and losses are drawn.
        seeds: Number of seeds.
        iterations: Iterations of each training.
        processes: Trainings at once (default: one per core).
        out: Output folder.
    """
    if activation not in ACTIVATIONS:
        raise unknown("activation", activation, ACTIVATIONS)
    for name, number in (("depth", depth), ("seeds", seeds), ("iterations", iterations), ("processes", processes)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} must be at least 1, not {number}")
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes or len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        waiting = [pool.submit(train, *one, depth, iterations) for one in product(ACTIVATIONS, INITS, range(seeds))]
        for _ in track(as_completed(waiting), f"training {len(waiting)} nets", len(waiting), console=console):
            pass
    trainings = [one.result() for one in waiting]
    found = pd.DataFrame(
        [(one.activation, one.init, one.seed, one.accuracy, one.outcome) for one in trainings],
        columns=["activation", "init", "seed", "accuracy", "outcome"],
    )
    found.to_csv(out / "demo.csv", index=False, float_format="%.1f", lineterminator="\n")
    picture(trainings, found, activation, out / "demo.png")
    console.print(table(found))
    console.print(finding(found))
    console.print(f"wrote {out / 'demo.png'} and {out / 'demo.csv'}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_app(app, errors=(UsageError,)))
