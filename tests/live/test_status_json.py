"""The state of a matrix as JSON."""

import json
from pathlib import Path

from workers import ended, put

from replicate.experiment import Experiment
from replicate.live.status_json import status_json
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder


def test_the_state(experiment: Experiment, tmp_path: Path) -> None:
    runs = experiment.runs()
    for run, status in zip(runs, ("converged", "error", "diverged"), strict=False):
        put(ended(run, status), RunFolder.of(tmp_path, run).path)
    RunFolder.of(tmp_path, runs[4]).path.mkdir()
    RunFolder.of(tmp_path, runs[4]).result.write_text("{")
    other = experiment.with_settings({"lr": 0.5}).runs()[0]
    put(ended(other), RunFolder.of(tmp_path, other).path)
    with acquire(RunFolder.of(tmp_path, runs[3]), Owner("gpu 3", 100, iteration=40, test_accuracy=12.5)):
        state = json.loads(status_json(experiment, runs, tmp_path))
    (running,) = state.pop("running")
    assert running.pop("holder").startswith("process ")
    # the run that has converged took 50 s for 100 iterations
    assert running == {
        "run_id": runs[3].run_id,
        "iteration": 40,
        "iterations": 100,
        "accuracy": 12.5,
        "device": "gpu 3",
        "elsewhere": False,
        "stage": "",
        "seconds_left": 30.0,
    }
    counts = {"expected": 9, "finished": 2, "converged": 1, "not_converged": 0, "diverged": 1, "errors": 1}
    cells = state.pop("cells")
    assert state == {
        "experiment": "small",
        "out": str(tmp_path),
        "axes": ["init", "activation"],
        "runs": {**counts, "running": 1, "waiting": 5},
        "seconds_left": 280.0,
        "unreadable": 1,
        "others": 1,
    }
    assert [(cell["row"], cell["column"], cell["finished"], cell["mean"]) for cell in cells] == [
        ("lsuv", "tanh", 1, 90.0),
        ("lsuv", "maxout", 0, None),
        ("msra", "tanh", 1, None),
    ]


def test_a_folder_that_does_not_exist(experiment: Experiment, tmp_path: Path) -> None:
    state = json.loads(status_json(experiment, experiment.runs(), tmp_path / "gone"))
    assert (state["runs"]["waiting"], state["seconds_left"], state["running"]) == (9, None, [])
