"""The sweep file: the commands that W&B's own agent makes of it are commands of ours."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from wandb import wandb_agent
from wandb.sdk.launch.sweeps.utils import load_sweep_config

from replicate.cli import make_parser
from replicate.commands import Selection
from replicate.experiment import Experiment
from replicate.run import Run

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "experiments" / "sweep.yaml"


@pytest.fixture
def sweep() -> dict[str, Any]:
    content = load_sweep_config(str(SWEEP))
    assert content is not None
    return content


def rendered(command: list[str], args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the agent would start for a run with these parameters."""
    started: list[list[str]] = []

    def process(command: list[str], **_: object) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace()

    monkeypatch.setattr(wandb_agent, "AgentProcess", process)
    agent = SimpleNamespace(
        _in_jupyter=False, _sweep_command=list(command), _function=None, _forward_signals=False, _run_processes={}
    )
    message = {"run_id": "abc", "program": None, "args": {key: {"value": value} for key, value in args.items()}}
    wandb_agent.Agent._command_run(agent, message)
    (words,) = started
    return words


def test_every_point_of_the_sweep_is_one_run(
    sweep: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "abc")  # the agent sets them; so they are put back
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(ROOT)
    pilot = Experiment.load("experiments/pilot.yaml").run
    axes = {key: entry.get("values", [entry.get("value")]) for key, entry in sweep["parameters"].items()}
    seen = set()
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        words = rendered(sweep["command"], point, monkeypatch)
        assert words[:4] == ["/usr/bin/env", "python", "-m", "replicate"]
        args = make_parser().parse_args(words[4:])
        chosen = Selection.of(args)
        assert chosen.runs == (Run(**{**pilot, **point}),)
        assert (args.command, args.wandb, str(chosen.out)) == ("run", "online", "results/local/sweep")
        seen.add(chosen.runs[0].run_id)
    assert len(seen) == 40


def test_it_looks_for_what_we_log(sweep: dict[str, Any]) -> None:
    assert sweep["metric"] == {"name": "test/accuracy", "goal": "maximize"}
    assert sweep["method"] == "grid"
