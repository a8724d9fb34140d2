"""The dashboard as code: a W&B workspace of one experiment, built with W&B's own library."""

import json
from typing import Any

import wandb

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.logging_options import WandbProject
from replicate.tracking.logger import HISTOGRAMS
from replicate.tracking.sync import require_key

try:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr
except ImportError:
    message = "the dashboard needs the package wandb-workspaces; install it: pip install wandb-workspaces"
    raise UsageError(message) from None

COLUMNS = ("config:init", "config:activation", "config:seed", "summary:status", "summary:test_accuracy")
FIGURES = ("accuracy", "curves", "init_variance")


def dashboard(experiment: Experiment, where: WandbProject, dry_run: bool) -> str:
    """Save the workspace of an experiment, as a new view of the project.

    It shows the experiment's W&B runs by initialisation and activation, and panels for what they log.

    Args:
        experiment: whose group of W&B runs is shown.
        where: the project, and the user or team whose it is.
        dry_run: save nothing, ask no server; `ENTITY` is shown where the default is not known.

    Returns:
        The workspace's address; in a dry run what would be saved, as JSON.

    Raises:
        UsageError: no W&B key is known, or the server was not reached or refused.
    """
    workspace: Any = ws.Workspace(
        entity=where.entity or "ENTITY",
        project=where.project,
        name=f"{experiment.name}: initialisations and activations",
        sections=_sections(),
        settings=ws.WorkspaceSettings(x_axis="iteration"),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Metric("Group") == experiment.name),
            groupby=[expr.Config("activation"), expr.Config("init")],
            order=[expr.Ordering(expr.Metric("Name"), ascending=True)],
            pinned_columns=list(COLUMNS),
        ),
    )
    if dry_run:
        view = workspace._model
        spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
        sent = {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}
        return json.dumps(sent, indent=1)
    require_key()
    try:
        workspace.entity = where.entity or str(wandb.Api().default_entity)
        workspace.save()
        return str(workspace.url)
    except Exception as error:  # whatever a network and a server come up with
        raise UsageError(f"W&B has not saved the dashboard: {' '.join(str(error).split())}") from None


def _sections() -> list[ws.Section]:
    by_axis = [_accuracy("init", "iteration"), _accuracy("activation", "iteration"), _accuracy("init", "epoch")]
    layers: list[Any] = [*map(_lines, HISTOGRAMS.values()), *map(_over_layers, HISTOGRAMS)]
    figures = wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in FIGURES])
    return [
        ws.Section(name="Test accuracy", is_open=True, panels=[*by_axis, _final("init"), _final("activation")]),
        ws.Section(name="Training", panels=[*map(_lines, ("train/loss", "test/loss", "train/accuracy", "lr"))]),
        ws.Section(name="Layers", panels=[*layers, *_tables("init/report", "layers/table")]),
        ws.Section(name="Report", is_open=True, panels=[*_tables("accuracy", "claims"), figures]),
    ]


def _lines(metric: str) -> wr.LinePlot:
    return wr.LinePlot(x="iteration", y=[metric], title_x="iteration")


def _accuracy(field: str, axis: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=f"Test accuracy by {field}, mean and range",
        x=axis,
        y=["test/accuracy"],
        title_x=axis,
        title_y="%",
        groupby=wr.Config(field),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _final(field: str) -> wr.BarPlot:
    title = f"Final test accuracy by {field}"
    return wr.BarPlot(title=title, metrics=[wr.SummaryMetric("test_accuracy")], groupby=wr.Config(field))


def _over_layers(column: str) -> wr.CustomChart:
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": "layers/table"}},
        chart_name="wandb/scatter/v0",
        chart_fields={"x": "position", "y": column},
        chart_strings={"title": f"{column} over the layers"},
    )


def _tables(*names: str) -> list[wr.WeavePanelSummaryTable]:
    return [wr.WeavePanelSummaryTable(table_name=name) for name in names]
