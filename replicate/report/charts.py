"""What the page's charts draw: learning curves and layers, as plain data."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from replicate.report.frames import HEAD, METRICS, QUANTITIES, Frames, averaged
from replicate.report.table import Table
from replicate.report.text import display_name, snapshot_name

DIGITS = 5  # significant ones: more than a screen shows
STATUS = {"converged": "", "not_converged": ", n/c", "diverged": ", diverged"}


def charts(table: Table, frames: Frames) -> dict[str, Any]:
    """Gather the data of all charts.

    Args:
        table: whose runs they are of.
        frames: what there is of the runs.

    Returns:
        `rows`, `columns`: their titles. `milestones`: iterations. `chance`: in %, or null. `curves`: metric -> `{label,
        x, lines}`, x in iterations. `layers`: a list of `{label, moment, x, lines}`, x names of layers. A line has the
        indices `row` and `column`, `kind` (`mean`, of converged runs; `run`, one of them; `failed`, one that did not
        converge), `label`, `y`, and for means `low` and `high`; null where there is no value.
    """
    classes = table.protocol.classes
    curves = {metric: frames.curves[frames.curves["metric"] == metric] for metric in METRICS}
    return {
        "rows": [display_name(row) for row in table.rows],
        "columns": [display_name(column) for column in table.columns],
        "milestones": list(table.protocol.settings.get("milestones", ())),
        "chance": 100 / classes if classes else None,
        "curves": {metric: _curves(curves[metric], label) for metric, label in METRICS.items() if len(curves[metric])},
        "layers": _layers(frames),
    }


def _curves(curves: pd.DataFrame, label: str) -> dict[str, Any]:
    x = sorted(set(curves["iteration"]))
    lines = _means(averaged(curves[curves["status"] == "converged"], "iteration"), "iteration", x)
    for (row, column, _, seed, status), run in curves.groupby([*HEAD, "seed", "status"], sort=False):
        kind = "run" if status == "converged" else "failed"
        y = _on(x, run["iteration"], run["value"])
        lines.append({**_place(row, column), "kind": kind, "label": f"seed {seed}{STATUS[str(status)]}", "y": y})
    return {"label": label, "x": x, "lines": lines}


def _layers(frames: Frames) -> list[dict[str, Any]]:
    layers = frames.layers
    if layers.empty:
        found = [_layer_chart(frames.init_variance, QUANTITIES["variance"], 0)]
    else:
        found = [
            _layer_chart(
                layers[(layers["quantity"] == quantity) & (layers["iteration"] == iteration)], label, iteration
            )
            for quantity, label in QUANTITIES.items()
            for iteration in sorted(set(layers["iteration"]))
        ]
    return [chart for chart in found if chart["lines"]]


def _layer_chart(layers: pd.DataFrame, label: str, iteration: int) -> dict[str, Any]:
    means = averaged(layers, "position", "layer", geometric=True)
    names = dict(zip(means["position"], means["layer"], strict=True))
    x = sorted(names)
    moment = snapshot_name(iteration)
    return {"label": label, "moment": moment, "x": [names[at] for at in x], "lines": _means(means, "position", x)}


def _means(means: pd.DataFrame, along: str, x: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            **_place(row, column),
            "kind": "mean",
            "label": "mean",
            **{key: _on(x, cell[along], cell[name]) for key, name in (("y", "mean"), ("low", "low"), ("high", "high"))},
        }
        for (row, column), cell in means.groupby(["row", "column"])
    ]


def _place(row: Any, column: Any) -> dict[str, int]:
    return {"row": int(row), "column": int(column)}  # JSON cannot hold NumPy's integers


def _on(x: Sequence[int], places: Iterable[int], values: Iterable[float]) -> list[float | None]:
    """The values at x, null where there is none."""
    found = dict(zip(places, values, strict=True))
    return [float(f"{found[place]:.{DIGITS}g}") if place in found else None for place in x]
