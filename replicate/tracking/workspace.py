"""The dashboard as code: a W&B workspace of one experiment, built with W&B's own library."""

import json
import os
from typing import TYPE_CHECKING, Any

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.tracking.runs import PROJECT
from replicate.tracking.sync import require_key

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

COLUMNS = ("config:init", "config:activation", "config:seed", "summary:status", "summary:test_accuracy")
FIGURES = ("accuracy", "curves", "init_variance")


def entity(asked: str | None, offline: bool = False) -> str:
    """Settle whose workspace it is: the one asked for, that of WANDB_ENTITY, or the default of the key's owner.

    Args:
        asked: by the user.
        offline: ask no server; `ENTITY` stands for the default.
    """
    if named := asked or os.environ.get("WANDB_ENTITY"):
        return named
    if offline:
        return "ENTITY"
    import wandb

    return str(wandb.Api().default_entity)


def dashboard(experiment: Experiment, asked: str | None, dry_run: bool) -> str:
    """Save the workspace of an experiment, as a new view of the project.

    Args:
        experiment: whose group of W&B runs is shown.
        asked: the entity that the user names.
        dry_run: save nothing, ask no server.

    Returns:
        The workspace's address; in a dry run what would be saved, as JSON.

    Raises:
        UsageError: W&B's library for workspaces is not installed, no W&B key is known, or the server was not reached
            or refused.
    """
    if dry_run:
        return as_json(build(experiment, entity(asked, offline=True)))
    require_key()
    try:
        workspace = build(experiment, entity(asked))
        workspace.save()  # type: ignore[no-untyped-call]
        return str(workspace.url)
    except UsageError:
        raise
    except Exception as error:  # whatever a network and a server come up with
        raise UsageError(f"W&B has not saved the dashboard: {' '.join(str(error).split())}") from None


def build(experiment: Experiment, owner: str) -> "Workspace":
    """Build the workspace of an experiment: its runs by initialisation and activation, and panels for what they log.

    Args:
        experiment: whose group of W&B runs is shown.
        owner: the entity.

    Raises:
        UsageError: W&B's library for workspaces is not installed.
    """
    try:
        # here, because it takes seconds to import
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError:
        raise UsageError(
            "the dashboard needs the package wandb-workspaces; install it: pip install wandb-workspaces"
        ) from None

    return ws.Workspace(
        entity=owner,
        project=PROJECT,
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


def _sections() -> "list[Section]":
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def lines(metric: str, axis: str = "iteration", **settings: Any) -> wr.LinePlot:
        return wr.LinePlot(x=axis, y=[metric], title_x=axis, **settings)

    def by(field: str, axis: str = "iteration") -> wr.LinePlot:
        band: Any = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        title = f"Test accuracy by {field}, mean and range"
        return lines("test/accuracy", axis, title=title, title_y="%", groupby=wr.Config(field), **band)

    def final(field: str) -> wr.BarPlot:
        title = f"Final test accuracy by {field}"
        return wr.BarPlot(title=title, metrics=[wr.SummaryMetric("test_accuracy")], groupby=wr.Config(field))

    def over_layers(column: str) -> wr.CustomChart:
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": "layers/table"}},
            chart_name="wandb/scatter/v0",
            chart_fields={"x": "position", "y": column},
            chart_strings={"title": f"{column} over the layers"},
        )

    return [
        ws.Section(
            name="Test accuracy",
            is_open=True,
            panels=[
                *(by(field) for field in ("init", "activation")),
                by("init", "epoch"),
                *(final(field) for field in ("init", "activation")),
            ],
        ),
        ws.Section(
            name="Training",
            panels=[lines(metric) for metric in ("train/loss", "test/loss", "train/accuracy", "lr")],
        ),
        ws.Section(
            name="Layers",
            panels=[
                *(lines(f"layers/log10_{key}") for key in ("variance", "gradient_norm")),
                *(over_layers(column) for column in ("variance", "gradient_norm")),
                *(wr.WeavePanelSummaryTable(table_name=key) for key in ("init/report", "layers/table")),
            ],
        ),
        ws.Section(
            name="Report",
            is_open=True,
            panels=[
                *(wr.WeavePanelSummaryTable(table_name=key) for key in ("accuracy", "claims")),
                wr.MediaBrowser(title="Figures", media_keys=[f"figures/{name}" for name in FIGURES]),
            ],
        ),
    ]


def as_json(workspace: "Workspace") -> str:
    """What saving the workspace would send to the server."""
    view = workspace._model
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    content = {"entity": view.entity, "project": view.project, "name": view.display_name, "spec": spec}
    return json.dumps(content, indent=1)
