"""The workspace: what would be saved, and that its panels show what is logged."""

import importlib
import json
import sys
from types import SimpleNamespace

import pytest

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.logging_options import WandbProject
from replicate.store.measurements import COLUMNS
from replicate.tracking import workspace
from replicate.tracking.workspace import dashboard


def test_the_runs_of_the_experiment_and_panels_for_what_they_log(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wandb.Api", None)  # a dry run asks no server
    view = json.loads(dashboard(experiment, WandbProject(), dry_run=True))
    assert (view["entity"], view["project"]) == ("ENTITY", "lsuv-replication")
    assert view["name"].startswith("two by two: ")
    (runs,) = view["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["activation.value", "init.value"]
    assert {"group", "two by two"} <= set(json.dumps(runs["filters"]).split('"'))
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel for section in sections for panel in section["panels"]]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    logged = {*(column.replace("_", "/") for column in COLUMNS), "layers/log10_variance", "layers/log10_gradient_norm"}
    assert {metric for line in lines for metric in line["metrics"]} <= logged
    grouped = {(line["groupBy"], line["xAxis"]) for line in lines if line["metrics"] == ["test/accuracy"]}
    assert grouped == {("init.value", "iteration"), ("activation.value", "iteration"), ("init.value", "epoch")}
    fields = [panel["config"]["fieldSettings"] for panel in panels if panel["viewType"] == "Vega2"]
    assert fields == [{"x": "position", "y": "variance"}, {"x": "position", "y": "gradient_norm"}]
    shown = set(json.dumps(panels).split('"'))
    assert {"init/report", "layers/table", "accuracy", "claims", "summary_metrics.test_accuracy"} <= shown
    assert {f"figures/{name}" for name in workspace.FIGURES} <= shown


def test_saving_needs_a_key_a_server_and_a_library(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> None:
        raise ConnectionError("no\nroute")

    with pytest.raises(UsageError, match="no W&B key is known"):
        dashboard(experiment, WandbProject(wandb_entity="me"), dry_run=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("wandb.Api", unreachable)
    with pytest.raises(UsageError, match="W&B has not saved the dashboard: no route"):
        dashboard(experiment, WandbProject(), dry_run=False)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(default_entity="owner"))
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", lambda workspace: None)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.url", property(lambda workspace: workspace.entity))
    assert dashboard(experiment, WandbProject(), dry_run=False) == "owner"
    monkeypatch.setenv("WANDB_ENTITY", "team")
    projects = [WandbProject(wandb_entity=name) for name in (None, "me")]
    assert [dashboard(experiment, one, dry_run=False) for one in projects] == ["team", "me"]
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UsageError, match="pip install wandb-workspaces"):
        importlib.reload(workspace)
