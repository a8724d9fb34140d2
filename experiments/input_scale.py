"""Estimate the scale of the authors' input: python experiments/input_scale.py --data-dir DIR

The constants of the released contrast normalisation are not known, so the input may differ from ours by a factor. The
authors trained on the data set of the highway networks (flukeskywalker/highway-networks at 87d1c8d). Two logs there,
`examples/highways/{cifar10,cifar100}-19layers/`, give the test loss of nets that were not trained yet. The prototxt
files tell how these nets draw their weights, so the expected loss depends on the scale of the input alone. This script
draws many such nets, and computes the likelihood of each scale from the two losses.

It also trains the cells in doubt for their first iterations, at our scale, at the estimate and at 0.25
(first_iterations.py).

OUT keeps the losses of all draws. If it is stopped, the same command goes on from there.
"""

import argparse
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from first_iterations import LAST, first_iterations
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy.stats import chi2, norm, shapiro
from torch import Tensor
from torch.nn import functional as F

from replicate import provenance
from replicate.data.dataset import Dataset
from replicate.data.preprocess import PREPROCESSINGS
from replicate.data.sources import load
from replicate.store.files import write_atomically

LOGS = {10: 2.49712, 100: 5.71903}  # classes of the data set -> test loss in nats at iteration 0, in the logs
SCALES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
GRID = np.linspace(SCALES[0], SCALES[-1], 801)  # scales at which the likelihood is computed
STACKS = ((32, 4), (80, 5), (128, 5))  # channels, and the number of highway layers after the plain one


class HighwayNet:
    """The 19-layer highway net of the logs with fresh weights, up to the global pooling; biases are zero.

    `xavier` in that fork of Caffe is a normal distribution with variance 2 / fan_in (include/caffe/filler.hpp).

    Args:
        generator: draws the weights.
    """

    def __init__(self, generator: torch.Generator) -> None:
        def normal(out: int, fan_in: int, size: int, std: float | None = None) -> Tensor:
            deviation = math.sqrt(2 / (fan_in * size**2)) if std is None else std
            return deviation * torch.randn(out, fan_in, size, size, generator=generator)

        self.stacks = []
        channels = 3
        for width, layers in STACKS:
            # The prototxt says `value: 0.05` in the first layer, which Caffe's gaussian filler does not read: std is 1.
            plain = normal(width, channels, 3, std=1 if channels == 3 else None)
            self.stacks.append((plain, [(normal(width, width, 3), normal(width, width, 3)) for _ in range(layers)]))
            channels = width
        self.last = normal(100, channels, 1)
        # the classifiers of the two data sets: classes -> weights (classes, 100)
        self.heads = {10: normal(10, 100, 1, std=0.05).flatten(1), 100: normal(100, 100, 1).flatten(1)}

    def __call__(self, x: Tensor) -> Tensor:
        """Map images (n, 3, 32, 32) to features (n, 100)."""
        for number, (plain, layers) in enumerate(self.stacks):
            x = F.relu(F.conv2d(F.max_pool2d(x, 2) if number else x, plain, padding=1))
            for hidden, gate in layers:
                share = torch.sigmoid(F.conv2d(x, gate, padding=1) - 2)  # of what is new
                x = F.relu(F.conv2d(x, hidden, padding=1)) * share + x * (1 - share)
        return F.relu(F.conv2d(x, self.last)).mean((2, 3))


def first_losses(net: HighwayNet, images: Tensor) -> dict[int, float]:
    """Expected test loss of a net in nats, by number of classes, if every class is equally likely for every image."""
    features = net(images)
    logits = {classes: features @ head.T for classes, head in net.heads.items()}
    return {classes: (one.logsumexp(1) - one.mean(1)).mean().item() for classes, one in logits.items()}


def draw(number: int, images: Tensor, count: int) -> pd.DataFrame:
    """Losses of one fresh net at each scale, on the same random `count` images: columns classes, scale, loss."""
    generator = torch.Generator().manual_seed(number)
    net = HighwayNet(generator)
    some = images[torch.randperm(len(images), generator=generator)[:count]].contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode():
        losses = {scale: first_losses(net, some * scale) for scale in SCALES}
    rows = [(classes, scale, loss) for scale, found in losses.items() for classes, loss in found.items()]
    return pd.DataFrame(rows, columns=["classes", "scale", "loss"])


def draw_all(file: Path, dataset: Dataset, draws: int, count: int) -> pd.DataFrame:
    """Losses of all draws: those that the file has, and the others, which are added to it one by one."""
    test = PREPROCESSINGS["gcn-mean-image"](dataset.train_images, dataset.test_images)[1]
    about = {"fingerprint": dataset.fingerprint[:16], "images": count}
    found = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*about, "draw"])
    parts = [part for _, part in found[(found[[*about]] == [*about.values()]).all(axis=1)].groupby("draw")]
    done = {int(part["draw"].iloc[0]) for part in parts}
    for number in track(sorted({*range(draws)} - done), "drawing nets", console=Console(stderr=True)):
        losses = draw(number, test, count)
        parts.append(pd.DataFrame({**about, "draw": number}, index=losses.index).join(losses))
        write_atomically(file, pd.concat(parts).to_csv(index=False, float_format="%.7g"))
    losses = pd.concat(parts)
    return losses[losses["draw"] < draws]


def excess(losses: pd.Series, classes: int) -> pd.Series:
    """Logarithm of a loss less the loss of chance, log(classes); it is close to normal over draws."""
    return np.log(losses - math.log(classes))


def normality(losses: pd.DataFrame) -> str:
    """Smallest p-value of Shapiro-Wilk's test over the scales, by net."""
    found = []
    for classes in LOGS:
        mine = losses[losses["classes"] == classes]
        p = [shapiro(one).pvalue for _, one in excess(mine["loss"], classes).groupby(mine["scale"])]
        found.append(f"CIFAR-{classes} {min(p):.2g}")
    return f"smallest p-values of {len(SCALES)} scales: {', '.join(found)}"


def log_likelihoods(losses: pd.DataFrame, logs: dict[int, float]) -> dict[int, NDArray[np.float64]]:
    """Logarithm of the likelihood of each scale in GRID, by the log that it comes from.

    At each scale, the excess is taken as normal over draws. Its mean and the logarithm of its deviation are smooth
    functions of the scale: quadratic polynomials in log(scale).

    Args:
        losses: columns `classes`, `scale` and `loss`.
        logs: classes -> the loss that was observed.
    """
    found = {}
    for classes, observed in logs.items():
        mine = losses[losses["classes"] == classes]
        spread = excess(mine["loss"], classes).groupby(mine["scale"]).agg(["mean", "std"])
        x = np.log(spread.index.to_numpy())
        mean = np.polyval(np.polyfit(x, spread["mean"], 2), np.log(GRID))
        deviation = np.exp(np.polyval(np.polyfit(x, np.log(spread["std"]), 2), np.log(GRID)))
        found[classes] = norm.logpdf(math.log(observed - math.log(classes)), mean, deviation)
    return found


def interval(log_likelihood: NDArray[np.float64]) -> tuple[float, float, float]:
    """The scale of the largest likelihood and its 95 % interval, by the likelihood ratio; it ends where GRID ends."""
    inside = GRID[2 * (log_likelihood.max() - log_likelihood) <= chi2.ppf(0.95, 1)]
    return float(GRID[log_likelihood.argmax()]), float(inside[0]), float(inside[-1])


def figure(losses: pd.DataFrame, likelihoods: dict[int, NDArray[np.float64]], path: Path) -> None:
    """Draw the losses over the scale, and the likelihoods."""
    sns.set_theme(context="paper", style="whitegrid")
    _, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    colours = dict(zip(LOGS, sns.color_palette("colorblind"), strict=False))
    for ax, (classes, observed) in zip(axes, LOGS.items(), strict=False):
        mine = losses[losses["classes"] == classes]
        sns.lineplot(mine, x="scale", y="loss", estimator="median", errorbar=("pi", 95), color=colours[classes], ax=ax)
        ax.axhline(observed, color="black", linestyle="--")
        ax.annotate(f"log: {observed}", (SCALES[0], observed), xytext=(2, 3), textcoords="offset points")
        ax.set(xlabel="scale of the input", ylabel="test loss before training (nats)", yscale="log")
        ax.set_title(f"CIFAR-{classes}: median and 95 % of the draws")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("{x:g}")
    both = sum(likelihoods.values())
    for one, name, colour in ((likelihoods[10], "CIFAR-10", colours[10]), (likelihoods[100], "CIFAR-100", colours[100]),
                              (both, "both", "black")):  # fmt: skip
        axes[2].plot(GRID, np.exp(one - one.max()), color=colour, label=name)
    axes[2].axvspan(*interval(both)[1:], color="black", alpha=0.1, label="95 % interval")
    axes[2].set(xlabel="scale of the input", ylabel="likelihood (maximum 1)", title="Likelihood of the scale")
    axes[2].legend()
    plt.savefig(path, dpi=150)


PAGE = """# The scale of the input

Estimate: **{best:.2f} times our input** (95 % interval {low:.2f} to {high:.2f}); {alone}.

`{command}`: {label}; commit {commit}, {cpu}, {date}.

{method}

![Losses and likelihoods over the scale]({picture})

Test loss in nats of {draws} fresh nets, on {images} images each: median (95 % of the draws), and the share of the draws
at or below the log.

| scale | CIFAR-10 | ≤ {logs[10]} | CIFAR-100 | ≤ {logs[100]} | likelihood |
|---|---|---|---|---|---|
{summary}

## Assumptions

- The authors' images are the highway networks' data set, as their released code suggests.
- The logs were written with the prototxt files and the sources at the same commit. `value: 0.05` in the first layer's
  filler is ignored, as those sources ignore it, so the deviation there is 1.
- The authors' normalisation differs from ours by one factor and nothing else.
- {label} stands in for the official CIFAR-10, and CIFAR-10 for CIFAR-100: both are normalised image by image.
- Every class is equally likely for every image. A net that was not trained yet knows nothing of the labels.
- The two nets are independent.
- Over draws, log(loss − log(classes)) is normal at each scale. Shapiro-Wilk's test of that: {normality}.
  The shares in the table do not assume it.
- Each draw is tested on its own {images} random test images, not on all 10,000. This widens the interval a little.

## The first iterations of the cells in doubt

Seed 0, width {width:g}, float32, {iterations} iterations. Chance is a loss of {chance:.3f}.

| cell | scale of the input | variance of the first logits | first loss | mean loss of the last {last} iterations |
|---|---|---|---|---|
{trained}
"""


def summary(losses: pd.DataFrame, likelihoods: dict[int, NDArray[np.float64]]) -> Iterator[str]:
    """One row of the table per scale."""
    both = sum(likelihoods.values())
    for scale in SCALES:
        cells = []
        for classes, observed in LOGS.items():
            mine = losses.loc[(losses["classes"] == classes) & np.isclose(losses["scale"], scale), "loss"]
            low, middle, high = mine.quantile([0.025, 0.5, 0.975])
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f}) | {100 * (mine <= observed).mean():.1f} %")
        ratio = math.exp(np.interp(scale, GRID, both) - both.max())
        yield f"| {scale} | {' | '.join(cells)} | {ratio:.2g} |"


def main() -> None:
    """Draw the nets, train the cells, and write the figure and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where data sets are found (data/)")
    parser.add_argument("--dataset", default="folder:cifar10-jpeg", help="as of a run (folder:cifar10-jpeg)")
    parser.add_argument("--draws", type=int, default=200, help="nets to draw (200)")
    parser.add_argument("--images", type=int, default=200, help="test images of each (200)")
    parser.add_argument("--iterations", type=int, default=60, help="of each run (60)")
    parser.add_argument("--width", type=float, default=1.0, help="of each run (1)")
    parser.add_argument("--out", type=Path, default=Path("results/local/input-scale"), help="folder to write to "
                        "(results/local/input-scale)")  # fmt: skip
    parser.add_argument("--page", type=Path, help="Markdown file to write (OUT/input_scale.md)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as many as the sums of the committed page were computed with
    args.out.mkdir(parents=True, exist_ok=True)
    dataset, (commit, dirty) = load(args.dataset, args.data_dir), provenance.commit()
    losses = draw_all(args.out / "losses.csv", dataset, args.draws, args.images)
    likelihoods = log_likelihoods(losses, LOGS)
    best, low, high = interval(sum(likelihoods.values()))
    page, picture = args.page or args.out / "input_scale.md", args.out / "likelihood.png"
    figure(losses, likelihoods, picture)
    alone = "from CIFAR-{} alone {:.2f} ({:.2f} to {:.2f})"
    command = ["python", "experiments/input_scale.py", "--data-dir", "DIR", "--dataset", args.dataset]
    command += ["--draws", args.draws, "--images", args.images, "--iterations", args.iterations]
    text = PAGE.format(
        **vars(args), best=best, low=low, high=high, command=" ".join(map(str, command)), label=dataset.label,
        alone="; ".join(alone.format(classes, *interval(one)) for classes, one in likelihoods.items()),
        commit=f"{commit[:12]}{' with changes' if dirty else ''}", cpu=provenance.cpu_name(),
        date=f"{datetime.now(UTC):%Y-%m-%d}", method=__doc__.partition("\n\n")[2].partition("\n\nIt also")[0],
        picture=os.path.relpath(picture, page.parent), logs=LOGS, normality=normality(losses),
        summary="\n".join(summary(losses, likelihoods)),
        chance=math.log(10), last=LAST,
        trained="\n".join(
            first_iterations(dataset, args.dataset, args.iterations, (1.0, round(best, 1), 0.25), args.width)
        ),
    )  # fmt: skip
    write_atomically(page, text)
    print(f"{text.splitlines()[2]}\nwrote {page} and {picture}")


if __name__ == "__main__":
    main()
