"""The figures of an experiment: from its records to files, with their captions."""

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from replicate.experiment import Experiment
from replicate.report.curves import curves_figure
from replicate.report.heatmap import accuracy_figure
from replicate.report.layer_figures import flow_figure, spectra_figure, variance_figure
from replicate.report.layers import layer_flow, layer_spectra, measured_layers
from replicate.report.layout import STYLE, Layout, save
from replicate.report.protocol import protocol
from replicate.report.published import read_reference
from replicate.report.series import layer_variances, learning_curves
from replicate.report.statistics import cells
from replicate.report.strip import strip_figure
from replicate.report.table import axis_values, require_finished
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.result import Result
from replicate.store.run_folder import Records

NO_CURVES = "no record has a learning curve"
NO_REPORTS = "no record holds a report of its initialisation"
NO_LAYERS = "no record has a layers.json"


def draw(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    out: Path,
    folder: Path,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Draw an experiment's figures, each as PNG and as PDF, and write their captions to `captions.md`.

    Args:
        experiment: names the axes and the published numbers.
        runs: the runs to show.
        records: what `out` holds of them.
        out: the output folder, which also holds the curves and what was measured in the layers.
        folder: where to; it is made if need be.
        say: called with a line for each figure that there is nothing for, and each file that could not be read.

    Returns:
        The files.

    Raises:
        UsageError: no run has finished, the records were made on different data sets, or a cell mixes settings.
    """
    results = tuple(records.results.values())
    require_finished(experiment, results, out)
    axes = (experiment.table.rows, experiment.table.columns)
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    grid, header = cells(runs, records.results, *axes), protocol(runs, results, axes)
    layout = Layout(experiment.name, rows, columns, grid, header, tuple(experiment.grid.get(axes[0], rows)))
    published = read_reference(experiment.table.reference, *axes) if experiment.table.reference else None
    paths, captions, left_out = [], [f"# {experiment.name}: captions of the figures"], []
    with sns.axes_style("whitegrid"), mpl.rc_context(STYLE):
        figures: dict[str, Figure | str] = {
            "accuracy": accuracy_figure(layout.name, rows, columns, grid, published, layout.caption()),
            "accuracy_by_init": strip_figure(layout, published),
            **_of_records(layout, results, out, axes, say),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            if isinstance(figure, str):
                left_out.append(f"{name} is left out: {figure}")
                continue
            files, caption = save(figure, folder / name)
            paths += files
            captions.append(f"**{name}.** {caption}")
    for line in left_out:
        say(line)
    text = "\n\n".join([*captions, *left_out]) + "\n"
    return [*paths, write_atomically(folder / "captions.md", text)]


def _of_records(
    layout: Layout, results: tuple[Result, ...], out: Path, axes: tuple[str, str], say: Callable[[str], None]
) -> dict[str, Figure | str]:
    """The figures that need more than accuracies: each, or why there is none."""
    curves, variances = learning_curves(results, out, *axes), layer_variances(results, *axes)
    measured = measured_layers(results, out)
    for reason in measured.bad.values():
        say(f"left out: {reason}")
    spectra = layer_spectra(results, measured, *axes)
    figures: dict[str, Figure | str] = {
        "curves": curves_figure(layout, curves) if len(curves) else NO_CURVES,
        "init_variance": variance_figure(layout, variances) if len(variances) else NO_REPORTS,
    }
    flow = layer_flow(results, measured, *axes, "variance")
    head = ("variance through the layers", "variance", True)
    figures["layer_variance"] = flow_figure(layout, flow, *head) if len(flow) else NO_LAYERS
    flow = layer_flow(results, measured, *axes, "gradient_norm")
    head = ("gradients through the layers", "L2 norm of the gradient", False)
    figures["layer_gradient"] = flow_figure(layout, flow, *head) if len(flow) else NO_LAYERS
    figures["weight_spectra"] = spectra_figure(layout, spectra) if len(spectra) else NO_LAYERS
    return figures
