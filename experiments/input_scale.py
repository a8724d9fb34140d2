"""Estimate the scale of the authors' input: python experiments/input_scale.py --data-dir DIR

The constants of the released contrast normalisation are not known, so the input may differ from ours by a factor. The
authors trained on the data set of the highway networks (flukeskywalker/highway-networks at 87d1c8d). Two logs there,
`examples/highways/{cifar10,cifar100}-19layers/`, give the test loss of nets that were not trained yet. The prototxt
files define how these nets draw their weights, so the expected loss depends only on the scale of the input. This script
draws many such nets, and computes the likelihood of each scale from the two losses.

It also trains the cells in doubt for their first iterations, at our scale, at the estimate and at 0.25
(first_iterations.py).

OUT keeps the losses of all draws. If the script is stopped, the same command continues from there.
"""

import math
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from first_iterations import LAST, first_iterations
from highway_nets import SCALES, draw_all
from numpy.typing import NDArray
from scipy.stats import chi2, norm, shapiro
from script import make_app, run_app

from replicate import provenance
from replicate.data import load
from replicate.isolation import isolate
from replicate.store.files import write_atomically

LOGS = {10: 2.49712, 100: 5.71903}  # classes of the data set -> test loss in nats at iteration 0, in the logs
GRID = np.linspace(SCALES[0], SCALES[-1], 801)  # scales at which the likelihood is computed

app = make_app("input_scale", __doc__)


def excess(losses: pd.Series, classes: int) -> pd.Series:
    """Compute log(loss − log(classes)), which is close to normal over draws; log(classes) is the loss of chance."""
    return np.log(losses - math.log(classes))


def normality(losses: pd.DataFrame) -> str:
    """Report the smallest p-value of Shapiro-Wilk's test over the scales, for each net."""
    found = []
    for classes in LOGS:
        mine = losses[losses["classes"] == classes]
        p = [shapiro(one).pvalue for _, one in excess(mine["loss"], classes).groupby(mine["scale"])]
        found.append(f"CIFAR-{classes} {min(p):.2g}")
    return f"smallest p-values of {len(SCALES)} scales: {', '.join(found)}"


def log_likelihoods(losses: pd.DataFrame, logs: dict[int, float]) -> dict[int, NDArray[np.float64]]:
    """Compute the log-likelihood of each scale in GRID.

    At each scale, the excess is modelled as normal over draws. Its mean and the logarithm of its deviation are
    modelled as quadratic polynomials in log(scale).

    Args:
        losses: columns `classes`, `scale` and `loss`.
        logs: classes -> the observed loss.

    Returns:
        Classes -> the log-likelihoods by that observation.
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
    """Return the most likely scale, and its 95 % interval by the likelihood ratio, which is limited to GRID."""
    inside = GRID[2 * (log_likelihood.max() - log_likelihood) <= chi2.ppf(0.95, 1)]
    return float(GRID[log_likelihood.argmax()]), float(inside[0]), float(inside[-1])


def figure(losses: pd.DataFrame, likelihoods: dict[int, NDArray[np.float64]], path: Path) -> None:
    """Plot the losses and the likelihoods over the scale."""
    isolate()
    import matplotlib.pyplot as plt  # here, after `isolate`
    import seaborn as sns

    plt.rcdefaults()  # not the user's settings
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

Estimate: **{best:.2f} times our input** (95 % interval {low:.2f} to {high:.2f}); {separate}.

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
- The authors' normalisation differs from ours only by a factor.
- {label} replaces the official CIFAR-10, and CIFAR-10 replaces CIFAR-100: each image is normalised separately.
- Every class is equally likely for every image, because an untrained net knows nothing about the labels.
- The two nets are independent.
- Over draws, log(loss − log(classes)) is normal at each scale. Shapiro-Wilk's test of this: {normality}.
  The shares in the table do not assume it.
- Each draw is tested on its own {images} random test images, not on all 10,000. This widens the interval a little.

## The first iterations of the cells in doubt

Seed 0, width {width:g}, float32, {iterations} iterations. Chance is a loss of {chance:.3f}.

| cell | scale of the input | variance of the first logits | first loss | mean loss of the last {last} iterations |
|---|---|---|---|---|
{trained}
"""


def summary(losses: pd.DataFrame, likelihoods: dict[int, NDArray[np.float64]]) -> Iterator[str]:
    """Yield one row of the table per scale."""
    both = sum(likelihoods.values())
    for scale in SCALES:
        cells = []
        for classes, observed in LOGS.items():
            mine = losses.loc[(losses["classes"] == classes) & np.isclose(losses["scale"], scale), "loss"]
            low, middle, high = mine.quantile([0.025, 0.5, 0.975])
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f}) | {100 * (mine <= observed).mean():.1f} %")
        ratio = math.exp(np.interp(scale, GRID, both) - both.max())
        yield f"| {scale} | {' | '.join(cells)} | {ratio:.2g} |"


@app.default
def estimate(
    *,
    data_dir: Path = Path("data"),
    dataset: str = "folder:cifar10-jpeg",
    draws: int = 200,
    images: int = 200,
    iterations: int = 60,
    width: float = 1.0,
    out: Path = Path("results/local/input-scale"),
    page: Path | None = None,
) -> None:
    """Draw the nets, train the cells, and write the figure and the page.

    Args:
        data_dir: Folder of the data sets.
        dataset: Data set, as in an experiment file.
        draws: Number of nets to draw.
        images: Number of test images for each net.
        iterations: Iterations of each training.
        width: Width of each trained net.
        out: Output folder.
        page: Markdown file to write (default: OUT/input_scale.md).
    """
    torch.set_num_threads(1)  # the committed page was computed with one; sums depend on it
    out.mkdir(parents=True, exist_ok=True)
    data, (commit, dirty) = load(dataset, data_dir), provenance.commit()
    losses = draw_all(out / "losses.csv", data, draws, images)
    likelihoods = log_likelihoods(losses, LOGS)
    best, low, high = interval(sum(likelihoods.values()))
    page, picture = page or out / "input_scale.md", out / "likelihood.png"
    figure(losses, likelihoods, picture)
    separate = "from CIFAR-{} only {:.2f} ({:.2f} to {:.2f})"
    command = (
        f"python experiments/input_scale.py --data-dir DIR --dataset {dataset} "
        f"--draws {draws} --images {images} --iterations {iterations}"
    )
    text = PAGE.format(
        images=images, iterations=iterations, width=width, draws=draws, best=best, low=low, high=high, label=data.label,
        command=command,
        separate="; ".join(separate.format(classes, *interval(one)) for classes, one in likelihoods.items()),
        commit=f"{commit[:12]}{' with changes' if dirty else ''}", cpu=provenance.cpu_name(),
        date=f"{datetime.now(UTC):%Y-%m-%d}", method=(__doc__ or "").partition("\n\n")[2].partition("\n\nIt also")[0],
        picture=os.path.relpath(picture, page.parent), logs=LOGS, normality=normality(losses),
        summary="\n".join(summary(losses, likelihoods)),
        chance=math.log(10), last=LAST,
        trained="\n".join(first_iterations(data, dataset, iterations, (1.0, round(best, 1), 0.25), width)),
    )  # fmt: skip
    write_atomically(page, text)
    print(f"{text.splitlines()[2]}\nwrote {page} and {picture}")


if __name__ == "__main__":
    sys.exit(run_app(app))
