"""Activations and gradients before training: python experiments/activation_statistics.py (`make activation-statistics`)

The figure of lecture notes on weight initialisation, for eight initialisations and three activations. 16 standard
normal inputs pass through six fully connected layers without biases. Every cell has the same inputs, and weights from
the same draws: the Gaussian ones are multiples of MSRA's, and LSUV starts with OrthoNorm's. The deviations 0.01, 0.05
and 0.5 are for the notes' 4,096 units; with another number of units n, they change so that n σ² stays the same.

The gradient is that of a loss that is linear in the last outputs (ours): their sum, weighted by random numbers with
deviation 1 / (units √16). No output layer adds an effect of its own. If layers passed on unit variance and the whole
gradient, the gradient of each layer's weights would have norm 1.

The notes draw MSRA's weights as `randn / sqrt(2 / d_in)` in one place, which multiplies by √(n / 2) where He et al.
multiply by √(2 / n). The other place, `randn / sqrt(fan_in / 2)`, is right, and so are the weights here.

OUT gets activation_statistics.png and activation_statistics.csv with one row per initialisation, activation and layer.
"""

import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from activation_nets import ACTIVATIONS, BINS, INITS, INPUTS, LAYERS, RANGES, Draws, measure
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from script import make_app, make_folder, run_app

from replicate.errors import UsageError
from replicate.isolation import isolate
from replicate.nn.statistics import SATURATED_BELOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

app = make_app("activation_statistics", __doc__)

HIGHEST = 0.25  # share at which the bars of the histograms are cut


def finding(found: pd.DataFrame) -> str:
    """Say in a sentence what becomes of one activation's outputs, and of the gradient, with each initialisation.

    The limits are ours. The outputs saturate if more than two thirds of those of the last layer are saturated. They
    shrink or grow if their deviation in the last layer is less than a third, or more than three times, that in layer 1.

    Args:
        found: the activation's rows of activation_statistics.csv.
    """
    first, last = (found[found["layer"] == layer].set_index("init") for layer in (1, LAYERS))
    what: dict[str, list[str]] = {}
    for init, (deviation, saturated) in last[["deviation", "saturated"]].iterrows():
        ratio = deviation / first.at[init, "deviation"] if deviation else None
        if ratio is None:
            verb = "are all equal"
        elif saturated > 2 / 3:
            verb = "saturate"
        else:
            verb = "shrink" if ratio < 1 / 3 else "grow" if ratio > 3 else "keep their size"
        what.setdefault(verb, []).append(str(init))
    outputs = "; ".join(f"{verb} with {', '.join(inits)}" for verb, inits in what.items())
    gradients = first["gradient"][first["gradient"] > 0]
    low, high = (f"{short(gradients[init])} ({init})" for init in (gradients.idxmin(), gradients.idxmax()))
    name = found["activation"].iloc[0]
    return f"{name}: the outputs {outputs}; the first layer's gradient, if it is not 0, has norms from {low} to {high}."


def short(number: float) -> str:
    """Format a number with about two digits: 0.0012, 1.2, 123, 1e5."""
    if 10 <= abs(number) < 1000:
        return f"{number:.0f}"
    if number == 0 or 0.001 <= abs(number) < 10:
        return f"{number:.2g}"
    mantissa, _, exponent = f"{number:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def table(found: pd.DataFrame) -> Table:
    """Sum up each net in a row, for a terminal."""
    names = ["", "", "deviation", "saturated\nin %", "dead\nin %", "gradient"]
    made = Table(*(Column(name, no_wrap=True) for name in names), title=f"Layer 1, layer {LAYERS}")
    for (activation, init), layers in found.groupby(["activation", "init"], sort=False):
        ends = layers.iloc[[0, -1]]
        deviation, gradient = (", ".join(map(short, ends[name])) for name in ("deviation", "gradient"))
        saturated, dead = (", ".join(f"{100 * share:.0f}" for share in ends[name]) for name in ("saturated", "dead"))
        made.add_row(str(activation), str(init), deviation, saturated, dead, gradient, end_section=init == [*INITS][-1])
    return made


def picture(found: pd.DataFrame, units: int, path: Path) -> None:
    """Draw the histograms of all layers and, below them, the gradients and the shares of saturated and dead units."""
    import matplotlib.pyplot as plt  # here, after `isolate`
    import seaborn as sns

    plt.rcdefaults()  # not the user's settings
    sns.set_theme(context="notebook", style="white", font_scale=0.9)
    figure = plt.figure(figsize=(18, 16))
    grid = figure.add_gridspec(len(INITS) + 2, len(ACTIVATIONS), height_ratios=[*[1] * len(INITS), 3.2, 3.2])

    gradient, saturated, dead = (
        found.pivot_table(name, "init", ["activation", "layer"], sort=False)
        for name in ("gradient", "saturated", "dead")
    )  # fmt: skip
    shares = (100 * saturated).map("{:.0f}".format) + " / " + (100 * dead).map("{:.0f}".format)
    for row, values, texts, title, style in (
        (-2, np.log10(gradient.clip(lower=1e-9)), gradient.map(short),
         "norm of the weights' gradient (1: everything keeps its size)", {"cmap": "vlag", "vmin": -4, "vmax": 4}),
        (-1, saturated, shares,
         f"in %: outputs whose slope is below {SATURATED_BELOW} (saturated) / "
         "units whose slope is 0 for all inputs (dead)",
         {"cmap": "rocket_r", "vmin": 0, "vmax": 1.2}),
    ):  # fmt: skip
        axis = figure.add_subplot(grid[row, :])
        layers = [layer for _, layer in values.columns]
        sns.heatmap(values, annot=texts, fmt="", cbar=False, linewidths=1, xticklabels=layers, ax=axis, **style)
        axis.vlines(range(LAYERS, len(layers), LAYERS), 0, len(INITS), color="white", linewidth=7)
        axis.set(title=title, xlabel="layer", ylabel="")

    for (row, init), (column, (activation, (low, high))) in product(enumerate(INITS), enumerate(RANGES.items())):
        axis = figure.add_subplot(grid[row, column], xticks=[], yticks=[])
        draw_histograms(found[(found["activation"] == activation) & (found["init"] == init)], axis)
        if row == 0:
            end = "; larger ones are in the last bin" if activation == "ReLU" else ""
            axis.set_title(f"{activation}: outputs from {low} to {high}{end}", pad=14)
        if column == 0:
            axis.set_ylabel(init, rotation=0, ha="right", va="center")
        if row == len(INITS) - 1:
            axis.set_xticks(range(1, LAYERS + 1), [f"layer {layer}" for layer in range(1, LAYERS + 1)])
    figure.suptitle(
        f"Outputs of {LAYERS} fully connected layers of {units:,} units before training, for {INPUTS} standard normal "
        f"inputs.\nAbove each histogram: mean ± standard deviation. Bars are cut at {100 * HIGHEST:.0f} %."
    )
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=100)


def draw_histograms(layers: pd.DataFrame, axis: "Axes") -> None:
    """Draw the histograms of a net side by side, that of layer 1 around x = 1."""
    edges = np.linspace(-0.42, 0.42, BINS + 1)
    for layer in layers.itertuples():
        axis.stairs(layer.shares, layer.layer + edges, fill=True, facecolor="C0", edgecolor="C0")
        text = f"{short(round(layer.mean, 2) + 0.0)} ± {short(layer.deviation)}"
        axis.annotate(text, (layer.layer, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8)
    axis.set(ylim=(0, HIGHEST), xlim=(0.5, LAYERS + 0.5))


@app.default
def main(*, units: int = 4096, out: Path = Path("results/local/activation-statistics")) -> None:
    """Measure all nets, sum up each activation, and draw the picture.

    Args:
        units: Units of each layer.
        out: Output folder.
    """
    if units < 2:  # one unit may be dead for all inputs
        raise UsageError(f"--units must be at least 2, not {units}")
    console = Console()
    isolate()
    make_folder(out)
    with console.status("drawing the weights"):
        draws = Draws(units)
    rows = []
    for activation, init in track([*product(ACTIVATIONS, INITS)], "measuring the nets", console=console):
        layers = measure(draws.net(activation, init), draws.inputs, draws.loss_weights, RANGES[activation])
        rows += [{"activation": activation, "init": init, **layer._asdict()} for layer in layers]
    found = pd.DataFrame(rows)
    found.drop(columns="shares").to_csv(
        out / "activation_statistics.csv", index=False, float_format="%.4g", lineterminator="\n"
    )
    picture(found, units, out / "activation_statistics.png")
    console.print(table(found))
    for activation in ACTIVATIONS:
        console.print(finding(found[found["activation"] == activation]), soft_wrap=True)
    console.print(f"wrote {out}/activation_statistics.png and {out}/activation_statistics.csv", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_app(app))
