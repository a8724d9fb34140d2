"""One run on the terminal: how it ended, what it is, its initialisation, its curve, and the command that repeats it."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from replicate.errors import UsageError
from replicate.experiment import NAME, Experiment
from replicate.options import OUT, Selection, command_line
from replicate.report.charts import init_report
from replicate.report.summary import GENERATED, departures
from replicate.report.text import count, terminal_text
from replicate.run import DEFAULTS, Run
from replicate.store.files import read_end
from replicate.store.measurements import read_curve
from replicate.store.result import BadRecordError, Result, read_result, reason_of
from replicate.store.run_folder import RunFolder
from replicate.yamlfile import assignment, assignments

CURVE_COLUMNS = {
    "lr": "learning rate",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy (%)",
}
SHOWN_ROWS, SHOWN_LAYERS, SHOWN_ERROR, SHOWN_LOG = 6, 3, 6, 4  # lines, so that a run fits on a screen


def find_run(run_id: str, out: Path | None) -> RunFolder:
    """Find the folder of a run.

    Args:
        run_id: of the run, or the beginning of it.
        out: the output folder; None: search those in results/local and in results.

    Raises:
        UsageError: no run, or more than one, has such a run_id.
    """
    places = [out] if out else sorted({*OUT.glob("*"), *OUT.parent.glob("*")})
    paths = [path for place in places for path in sorted(place.glob("runs/*"))]
    found = [path for path in paths if path.name.startswith(run_id) and path.is_dir()]
    if not found:
        where = out or f"the folders of {OUT} and {OUT.parent}"
        raise UsageError(f"there is no run {run_id!r} in {where}; give its output folder with --out")
    if len(found) > 1:
        named = ", ".join(map(str, found[:3])) + (", …" if len(found) > 3 else "")
        raise UsageError(f"{run_id!r} matches {len(found)} runs: {named}; give the whole run_id, or --out")
    return RunFolder(found[0])


def show(folder: RunFolder, data_dir: Path, console: Console) -> None:
    """Print a run in at most about 40 lines.

    Args:
        folder: of the run.
        data_dir: folder of the data sets, for the command that repeats the run.
        console: where to print.

    Raises:
        UsageError: the run has no record, or none that can be read.
    """
    try:
        result = read_result(folder.result)
    except FileNotFoundError:
        raise UsageError(f"{folder.path} has no record yet; replicate status shows how far its run is") from None
    except (BadRecordError, OSError) as error:
        raise UsageError(f"{folder.result}: {reason_of(error)}") from None
    out = folder.path.parents[1]
    facts = Table.grid(padding=(0, 2, 0, 0))
    for name, text in _facts(result, folder):
        facts.add_row(terminal_text(name, "dim"), terminal_text(text))
    console.print(terminal_text(f"{folder.run_id} in {out}", "bold"), facts, sep="\n")
    if (curve := _curve_table(folder)).rows:
        console.print("", curve, sep="\n")
    command = repeat_command(result, out, data_dir)
    purpose = "to repeat it and compare" if result.final else "to try it again"
    missing = "no file in experiments/ gives this run; use the experiment file that it was made from"
    # one line however narrow the terminal is, so that it can be pasted
    console.print(Text(f"\n{purpose}:", "dim"), terminal_text(command or missing), sep="\n", soft_wrap=True)


def repeat_command(result: Result, out: Path, data_dir: Path) -> str:
    """The command that repeats exactly this run: `verify`, or `run` if it ended in an error.

    Args:
        result: its record, which names the experiment. Its file is looked for in experiments/.
        out: the output folder.
        data_dir: folder of the data sets.

    Returns:
        The command; empty if there is no such file, or if its grid cannot give this run.
    """
    name, run = str(result.options.get("experiment")), result.run
    if not re.fullmatch(NAME, name):
        return ""
    file = Path("experiments", f"{name}.yaml")
    try:
        experiment = Experiment.load(file)
        nearest = min((_differing(run, other) for other in experiment.runs()), key=len)
        axes = {axis: getattr(run, axis) for axis, values in experiment.grid.items() if len(values) > 1}
        settings = [assignment(field, value) for field, value in (axes | nearest).items()]
        runs = experiment.with_settings(assignments("--set", settings)).runs()
    except UsageError:
        return ""
    if [one.run_id for one in runs] != [run.run_id]:
        return ""
    selection = Selection(out=out if out != OUT / experiment.name else None, data_dir=data_dir, set=tuple(settings))
    return command_line("verify" if result.final else "run", file, selection)


def _differing(run: Run, other: Run) -> dict[str, Any]:
    """The settings of a run that another run does not have."""
    pairs = ((field.name, getattr(run, field.name)) for field in fields(Run))
    return {name: value for name, value in pairs if value != getattr(other, name)}


def _facts(result: Result, folder: RunFolder) -> Iterator[tuple[str, str]]:
    run = result.run
    ended = "n/c" if result.status == "not_converged" else result.status
    accuracy = "" if result.test_accuracy is None else f", test accuracy {result.test_accuracy:.2f} %"
    loss = "" if result.train_loss is None else f", training loss {result.train_loss:.4g}"
    yield "status", f"{ended}{accuracy}{loss}, {result.iteration:,} of {run.iterations:,} iterations"
    changed = departures(run, {name: value for name, value in DEFAULTS.items() if name != "seed"})
    yield "settings", f"{changed}; otherwise the defaults" if changed else "the defaults, which are the paper's"
    yield "data", f"{result.data_label}, fingerprint {result.fingerprint[:12]}"
    if run.dataset == "synthetic":
        yield "", GENERATED
    speed = "" if result.images_per_second is None else f", {result.images_per_second:,.0f} images/s"
    yield "time", f"{result.seconds:,.0f} s{speed}, finished {result.finished}"
    yield "device", result.device
    if result.url:
        yield "URL", result.url
    yield "code", f"commit {result.commit[:12]}{' with changes' if result.dirty else ''}"
    yield "versions", ", ".join(f"{library} {version}" for library, version in result.versions.items())
    if result.history:
        yield "attempts", f"{count(len(result.history), 'failed attempt')} before; {result.history[-1]['reason']}"
    if result.set_aside:
        yield "set aside", "; ".join(result.set_aside)
    if result.init:
        yield "init", _init_summary(result)
    yield from (("error", line) for line in (result.error or "").strip().splitlines()[-SHOWN_ERROR:])
    with contextlib.suppress(OSError):  # there may be no log
        log = read_end(folder.log, below=folder.path).decode(errors="replace") if result.error else ""
        yield from (("log", line) for line in log.strip().splitlines()[-SHOWN_LOG:])
    yield "files", ", ".join(sorted(path.name for path in folder.path.iterdir()))


def _init_summary(result: Result) -> str:
    """Sum up the initialisation, and name the layers whose variance is farthest from 1."""
    layers = init_report([result.init])
    within = [layer["within"] for layer in layers if layer["within"] is not None]
    reached = f"{sum(within)} of {len(result.init)} variances reached the tolerance; " if within else ""
    farthest = sorted(layers, key=_distance, reverse=True)[:SHOWN_LAYERS]
    named = ", ".join(f"{layer['layer']} ({_ends(layer['range'])})" for layer in farthest)
    return f"{count(len(layers), 'layer')}; {reached}farthest from variance 1 afterwards: {named}"


def _distance(layer: Mapping[str, Any]) -> float:
    """How far a layer's variance is from 1, as a factor; infinite if it is not positive and finite."""
    return max(abs(math.log(variance)) for variance in layer["range"]) if layer["range"] else math.inf


def _ends(values: Sequence[float] | None) -> str:
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in values)) if values else "not positive and finite"


def _curve_table(folder: RunFolder) -> Table:
    """Some rows of the curve, evenly spaced, with the first and the last."""
    curve = read_curve(folder, CURVE_COLUMNS)
    iterations = [*curve["test_accuracy"]]
    head = [Column(name, justify="right") for name in ("iteration", *CURVE_COLUMNS.values())]
    table = Table(*head, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    steps = [round(step * (len(iterations) - 1) / (SHOWN_ROWS - 1)) for step in range(SHOWN_ROWS)]
    for at in dict.fromkeys(iterations[index] for index in steps if iterations):
        table.add_row(f"{at:,}", *(f"{values.get(at, math.nan):.4g}" for values in curve.values()))
    return table
