"""What an initialisation does to a deep net, in a minute: python experiments/demo.py (`make demo`)

Fully connected nets of 20 hidden layers with 64 units learn the embedded shapes, averaged to 16 x 16 pixels and
standardised, with seven activations. Each starts from PyTorch's default weights, from three formulas, and from LSUV.
The rest of the recipe is always the same: SGD with learning rate 0.01 and momentum 0.9, 300 iterations of 128 images,
three seeds. This is not the paper's experiment: nets, images and recipe are our choice.

OUT gets demo.png and demo.csv with the accuracy of each training.
"""

import math
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from demo_nets import ACTIVATIONS, CLASSES, INITS, Training, train
from rich.console import Console
from rich.progress import track
from rich.table import Table
from script import make_app, make_folder, run_app

from replicate.errors import UsageError, unknown
from replicate.isolation import isolate
from replicate.matrix.limits import cores

app = make_app("demo", __doc__)


def texts(found: pd.DataFrame) -> pd.DataFrame:
    """Sum up each activation (row) and initialisation (column) as text; `found` has one row per training."""
    grouped = found.groupby(["activation", "init"])[["accuracy", "outcome"]]
    return grouped.apply(cell).unstack().loc[[*ACTIVATIONS], [*INITS]]


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
    import matplotlib.pyplot as plt  # here, after `isolate`
    import seaborn as sns

    plt.rcdefaults()  # not the user's settings
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

    annotations = texts(found)
    means = found.pivot_table("accuracy", "activation", "init").reindex_like(annotations).fillna(0)
    sns.heatmap(
        means, annot=annotations, fmt="", cmap="Blues", vmin=10, cbar=False, linecolor="0.8", linewidths=1, ax=axes[2]
    )
    axes[2].set_xticklabels([name.replace(" ", "\n") for name in names], rotation=0)
    axes[2].tick_params(axis="y", rotation=0)
    axes[2].set(xlabel="", ylabel="", title="Test accuracy in % (chance is 10)")
    plt.savefig(path, dpi=110)


def table(found: pd.DataFrame) -> Table:
    """Lay out the accuracies for a terminal."""
    made = Table("", *INITS.values(), title="Test accuracy in %; chance is 10")
    for activation, row in texts(found).iterrows():
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
    isolate()
    make_folder(out)
    with ProcessPoolExecutor(processes or cores(), get_context("spawn")) as pool:
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
    sys.exit(run_app(app))
