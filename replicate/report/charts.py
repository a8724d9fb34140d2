"""What the page's charts draw: learning curves and layers, as plain data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from replicate.report.axes import moment_text, title
from replicate.report.layers import Measured, Quantity, layer_flow
from replicate.report.series import averaged, layer_variances
from replicate.report.table import Table
from replicate.store.curve import Point
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder

METRICS = {"test_accuracy": "test accuracy (%)", "train_loss": "training loss (nats)", "test_loss": "test loss (nats)"}
QUANTITIES: Mapping[Quantity, str] = {
    "variance": "variance of the pre-activation",
    "gradient_norm": "L2 norm of the gradient by the weight",
}
DIGITS = 5  # significant ones: more than a screen shows
STATUS = {"converged": "", "not_converged": ", n/c", "diverged": ", diverged"}


def charts(table: Table, out: Path, measured: Measured) -> dict[str, Any]:
    """Gather the data of all charts.

    Args:
        table: whose records they are of.
        out: the output folder, which also holds the curves.
        measured: what there is of the runs' layers.

    Returns:
        `rows`, `columns`: their titles. `milestones`: iterations. `chance`: in %, or null. `curves`: metric -> `{label,
        x, lines}`, x in iterations. `layers`: a list of `{label, moment, x, lines}`, x names of layers. A line has the
        indices `row` and `column`, `kind` (`mean`, of converged runs; `run`, one of them; `failed`, one that did not
        converge), `label`, `y`, and for means `low` and `high`; null where there is no value.
    """
    classes = table.protocol.classes
    read = [(r, RunFolder.of(out, r.run).points(*METRICS)) for r in table.results if r.status != "error"]
    curves = {}
    for name, label in METRICS.items():
        curves[name] = _curves(table, [(result, points[name]) for result, points in read if points[name]], label)
    return {
        "rows": [title(row) for row in table.rows],
        "columns": [title(column) for column in table.columns],
        "milestones": list(table.protocol.settings.get("milestones", ())),
        "chance": 100 / classes if classes else None,
        "curves": {name: chart for name, chart in curves.items() if chart["lines"]},
        "layers": _layers(table, measured),
    }


def _curves(table: Table, runs: Sequence[tuple[Result, Sequence[Point]]], label: str) -> dict[str, Any]:
    means = averaged(runs, *table.axes)
    x = sorted({point[0] for _, points in runs for point in points})
    lines = []
    for place, group in means[means["line"] == "converged"].groupby(["row", "column"], sort=False):
        values = {name: dict(zip(group["iteration"], group[name], strict=True)) for name in ("mean", "low", "high")}
        spread = {name: _on(x, values[name]) for name in ("low", "high")}
        lines.append({**_place(table, place), "kind": "mean", "label": "mean", "y": _on(x, values["mean"]), **spread})
    for result, points in runs:
        place = tuple(getattr(result.run, axis) for axis in table.axes)
        kind = "run" if result.status == "converged" else "failed"
        name = f"seed {result.run.seed}{STATUS[result.status]}"
        values_of = {iteration: value for iteration, _, value in points}
        lines.append({**_place(table, place), "kind": kind, "label": name, "y": _on(x, values_of)})
    return {"label": label, "x": x, "lines": lines}


def _layers(table: Table, measured: Measured) -> list[dict[str, Any]]:
    if not measured.moments:
        frame = layer_variances(table.results, *table.axes)
        chart = _layer_chart(table, frame, QUANTITIES["variance"], "after initialisation")
        return [chart] if chart["lines"] else []
    found = []
    for what, label in QUANTITIES.items():
        flow = layer_flow(table.results, measured, *table.axes, what)
        for iteration in measured.iterations():
            frame = flow[flow["iteration"] == iteration]
            found.append(_layer_chart(table, frame, label, moment_text(iteration)))
    return [chart for chart in found if chart["lines"]]


def _layer_chart(table: Table, frame: pd.DataFrame, label: str, moment: str) -> dict[str, Any]:
    names = dict(zip(frame["position"], frame["layer"], strict=True))
    x = sorted(names)
    lines = []
    for place, group in frame.groupby(["row", "column"], sort=False):
        values = {name: dict(zip(group["position"], group[name], strict=True)) for name in ("mean", "low", "high")}
        y, low, high = (_on(x, values[name]) for name in ("mean", "low", "high"))
        lines.append({**_place(table, place), "kind": "mean", "label": "mean", "y": y, "low": low, "high": high})
    return {"label": label, "moment": moment, "x": [names[position] for position in x], "lines": lines}


def _place(table: Table, place: Any) -> dict[str, int]:
    return {"row": table.rows.index(place[0]), "column": table.columns.index(place[1])}


def _on(x: Sequence[int], values: Mapping[int, float]) -> list[float | None]:
    """The values at the places x, null where there is none."""
    return [float(f"{value:.{DIGITS}g}") if (value := values.get(place)) is not None else None for place in x]
