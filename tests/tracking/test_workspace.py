"""The workspace: what would be saved, and that its panels show what is logged."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.tracking import workspace
from replicate.tracking.workspace import dashboard
from replicate.training.curve import COLUMNS


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("wandb.Api", lambda *_, **__: pytest.fail("asked the server"))


@pytest.fixture
def view(experiment: Experiment) -> dict[str, Any]:
    return json.loads(dashboard(experiment, None, dry_run=True))


def panels(view: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in view["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]


def test_whose_and_which(view: dict[str, Any], experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (view["entity"], view["project"]) == ("ENTITY", "lsuv-replication")
    assert view["name"].startswith("two by two: ")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert json.loads(dashboard(experiment, None, dry_run=True))["entity"] == "team"
    assert json.loads(dashboard(experiment, "me", dry_run=True))["entity"] == "me"


def test_the_runs_of_the_experiment_by_activation_and_init(view: dict[str, Any]) -> None:
    (runs,) = view["spec"]["section"]["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["activation.value", "init.value"]
    filters = json.dumps(runs["filters"])
    assert '"group"' in filters
    assert '"two by two"' in filters


def test_every_panel_shows_what_is_logged(view: dict[str, Any]) -> None:
    sections = view["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Test accuracy", "Training", "Layers", "Report"]
    logged = {column.replace("_", "/") for column in COLUMNS}
    logged |= {"layers/log10_variance", "layers/log10_gradient_norm"}
    axes, tables, fields, grouped = set(), set(), set(), set()
    for panel in panels(view):
        config, kind = panel["config"], panel["viewType"]
        if kind == "Run History Line Plot":
            assert set(config["metrics"]) <= logged
            axes.add(config["xAxis"])
            if config["metrics"] == ["test/accuracy"]:
                grouped.add(config["groupBy"])
        elif kind == "Bar Chart":
            assert config["metrics"] == ["summary_metrics.test_accuracy"]
        elif kind == "Vega2":
            fields |= set(config["fieldSettings"].values())
        elif kind == "Media Browser":
            assert config["mediaKeys"] == [f"figures/{name}" for name in workspace.FIGURES]
        else:
            tables |= {
                key
                for key in ("init/report", "layers/table", "accuracy", "claims")
                if f'"{key}"' in str(json.dumps(config))
            }
    assert axes == {"iteration", "epoch"}
    assert grouped == {"init.value", "activation.value"}
    assert fields == {"position", "variance", "gradient_norm"}
    assert tables == {"init/report", "layers/table", "accuracy", "claims"}


def test_saving_needs_a_key(experiment: Experiment) -> None:
    with pytest.raises(UsageError, match="no W&B key is known"):
        dashboard(experiment, "me", dry_run=False)


def test_a_server_that_is_out_of_reach_is_one_line(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("wandb.Api", fail)
    with pytest.raises(UsageError, match="W&B has not saved the dashboard: no route"):
        dashboard(experiment, "me", dry_run=False)


def test_without_the_library_it_says_what_to_install(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UsageError, match="pip install wandb-workspaces"):
        dashboard(experiment, None, dry_run=True)
