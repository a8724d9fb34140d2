"""What a search leaves on disk and on the terminal."""

import csv
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from PIL import Image
from rich.console import Console

from replicate.experiment import Experiment
from replicate.run import Run
from replicate.search import figures
from replicate.search.results import best_experiment, best_of, print_results, write_results
from replicate.search.space import Range
from replicate.search.spec import Method, Search, Stage
from replicate.search.trials import Outcome, Trials

RUN = {"init": "lsuv", "validation": 20, "iterations": 90, "milestones": (40, 60, 80), "seed": 3, "lr": 0.05}
SPACE = {"weight_decay": Range(1e-5, 1e-2, log=True), "momentum": Range(0.5, 0.9), "activation": ("relu", "elu")}
SPEC = Search("small", RUN, SPACE, (Stage(8, 0.5, 2), Stage(8)), ("grid", "random"))


def outcome(method: Method, stage: int, trial: int, accuracy: float | None, state: str = "complete") -> Outcome:
    point = {
        "weight_decay": 10 ** (-5 + 0.6 * trial),
        "momentum": 0.5 + 0.08 * trial,
        "activation": ("relu", "elu")[trial % 2],
    }
    spec = SPEC.stages[stage - 1]
    rungs = range(1 if state == "pruned" else spec.rungs)
    runs = tuple(SPEC.run_of(point, spec, rung) for rung in rungs)
    accuracies = {} if accuracy is None else dict.fromkeys(rungs, accuracy)
    return Outcome(method, stage, trial, point, state, runs, accuracies, learned=bool(accuracy))


def ended(outcomes: list[Outcome]) -> Trials:
    """The trials of a search that have these outcomes."""
    trials = Trials(SPEC)
    trials.spaces = {(one.method, one.stage): SPACE for one in outcomes}
    trials._ended = {place: [one for one in outcomes if (one.method, one.stage) == place] for place in trials.spaces}
    return trials


OUTCOMES = [
    *(outcome("grid", 1, trial, 20.0 + trial) for trial in range(4)),
    outcome("grid", 2, 0, 40.25),
    outcome("random", 1, 0, 15.0, "pruned"),
    outcome("random", 1, 1, 99.0),  # of a short run
    outcome("random", 2, 0, None, "failed"),
    outcome("random", 2, 1, 41.5),
    outcome("random", 2, 2, 41.5),
]


def test_the_best_trial_has_the_longest_runs() -> None:
    assert best_of(OUTCOMES) == OUTCOMES[-2]  # the first of two
    assert best_of([OUTCOMES[7], outcome("grid", 1, 0, 0.0)]) is None  # failed, and diverged


def test_the_files(tmp_path: Path) -> None:
    trials, database, best = write_results(ended(OUTCOMES), tmp_path)
    rows = [*csv.DictReader(trials.read_text().splitlines())]
    assert len(rows) == len(OUTCOMES)
    assert rows[4] == {
        **{"method": "grid", "stage": "2", "trial": "0", "weight_decay": "1e-05", "momentum": "0.5"},
        **{"activation": "relu", "state": "complete", "accuracy": "40.25", "run_iterations": "90"},
        **{"all_iterations": "90", "run_id": OUTCOMES[4].runs[-1].run_id},
    }
    assert best.read_text().startswith(
        "# The best settings of 10 trials: 41.50 % on 20 validation images after 90 iterations.\n"
    )
    experiment = Experiment.load(best)
    assert (experiment.name, len(experiment.runs())) == ("small-best", 5)
    study = optuna.load_study(study_name="random 2", storage=f"sqlite:///{database}")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert (study.best_value, study.best_params) == (41.5, OUTCOMES[-2].point)
    pruned = optuna.load_study(study_name="random 1", storage=f"sqlite:///{database}").trials[0]
    assert (pruned.state.name, pruned.intermediate_values) == ("PRUNED", {0: 15.0})
    whole = {"iterations": 90, "milestones": (40, 60, 80), "lr": 0.05, **OUTCOMES[-2].point}
    assert experiment.runs({"seed": 4}) == (Run(init="lsuv", seed=4, **whole),)  # and no validation images


def test_nothing_is_best_if_all_failed(tmp_path: Path) -> None:
    paths = write_results(ended([OUTCOMES[7]]), tmp_path)
    assert [path.name for path in paths] == ["trials.csv", "search.db"]


def test_a_long_name_leaves_room_for_the_best(tmp_path: Path) -> None:
    text = best_experiment(replace(SPEC, name="a" * 100), OUTCOMES[-1], 3)
    (tmp_path / "best.yaml").write_text(text)
    assert Experiment.load(tmp_path / "best.yaml").name == "a" * 95 + "-best"


def test_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(SPEC, OUTCOMES, Console(width=120))
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["grid", "5", "0", "0", "330", "40.25", "weight_decay 1e-05, momentum 0.5, activation ReLU"],
        ["random", "5", "1", "1", "345", "41.50", "weight_decay 3.98107e-05, momentum 0.58, activation ELU"],
    ]


def test_the_figures(tmp_path: Path) -> None:
    many = [outcome("random", 1, trial % 5, 20.0 + trial) for trial in range(12)]
    paths = figures.draw(SPEC, [*OUTCOMES, *many], tmp_path)
    names = ("progress", "points", "settings", "importance")
    assert [path.name for path in paths] == [*(f"{n}.{kind}" for n in names for kind in ("png", "pdf")), "captions.md"]
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 250
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # not blank
    assert paths[-1].read_text().count("**") == 2 * len(names)
    axes = figures.progress(SPEC, OUTCOMES).figure.axes[0]
    grid, random = (line.get_xydata().tolist() for line in axes.lines)
    assert grid == [[60, 20], [120, 21], [180, 22], [240, 23], [330, 40.25]]
    assert random == [[15, 15], [75, 99], [165, 99], [255, 99], [345, 99]]  # one was pruned, one has failed
    lines = figures.settings(SPEC, OUTCOMES).figure.axes[0].lines
    assert lines[0].get_ydata() == pytest.approx([0, 0, 0, 0])  # the worst, drawn first
    assert lines[8].get_ydata() == pytest.approx([0.2, 0.2, 1, 1])


def test_a_space_without_two_ranges_has_no_figure_of_points(tmp_path: Path) -> None:
    spec = replace(SPEC, space={name: SPACE[name] for name in ("momentum", "activation")}, run={**RUN, "lr": 0.1})
    few = [one._replace(point={name: one.point[name] for name in spec.space}) for one in OUTCOMES]
    names = {path.stem for path in figures.draw(spec, few, tmp_path)}
    assert names == {"progress", "settings", "captions"}  # and the trials are too few to tell what is important


def test_the_setting_that_decides_is_important() -> None:
    def made(number: int, *, accuracy: float) -> Outcome:
        one = outcome("random", 1, 0, accuracy)
        point = {"weight_decay": 10 ** (-5 + 3 * ((5 * number) % 16) / 16), "momentum": 0.5 + 0.4 * number / 16}
        return one._replace(point={**point, "activation": ("relu", "elu")[number % 2]})

    decided = [made(number, accuracy=50.0 - number) for number in range(16)]
    axes = figures.importance(SPEC, decided).figure.axes[0]
    assert axes.get_yticklabels()[0].get_text() == "momentum"
    assert figures.importance(SPEC, decided[1:]) is None  # too few
    assert figures.importance(SPEC, [made(number, accuracy=50.0) for number in range(16)]) is None  # all alike
