"""The sweep file: the commands that W&B's own agent makes of it are commands of ours."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from command_lines import parse

from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.run import Run


def test_every_point_of_the_sweep_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args, load_sweep_config  # loads all of W&B

    monkeypatch.chdir(Path(__file__).parents[2])
    sweep: Any = load_sweep_config("experiments/sweep.yaml")
    assert sweep["metric"] == {"name": "test/accuracy", "goal": "maximize"}  # as the logger logs it
    assert sweep["method"] == "grid"
    *words, last = sweep["command"]
    assert (words[:4], last) == (["${env}", "${interpreter}", "-m", "replicate"], "${args_no_hyphens}")
    pilot = Experiment.load("experiments/pilot.yaml").run
    axes = {key: entry.get("values", [entry.get("value")]) for key, entry in sweep["parameters"].items()}
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert len(points) == 40
    for point in points:
        made = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
        command, arguments = parse([*words[4:], *made["args_no_hyphens"]])
        chosen = Selected.load(arguments["file"], arguments["selection"])
        assert chosen.runs == (Run(**{**pilot, **point}),)
        assert (command, arguments["logging"].wandb, str(chosen.out)) == ("run", "online", "results/local/sweep")
