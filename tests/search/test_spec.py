"""Search files: what is accepted, what is refused, and the runs of a trial."""

from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.run import Run
from replicate.search.space import Range
from replicate.search.spec import Search, Stage

ROOT = Path(__file__).parents[2]
SMALL = """
run: {init: lsuv, activation: relu, validation: 20, iterations: 900, milestones: [400, 600, 800]}
space:
  lr: {low: 0.001, high: 0.3, log: true}
  width: [0.0625, 0.125]
methods: [grid, random]
stages: [{trials: 9, length: 0.5, rungs: 3}, {trials: 4}]
"""


def load(folder: Path, text: str = SMALL) -> Search:
    path = folder / "small.yaml"
    path.write_text(text)
    return Search.load(path)


def test_the_shipped_search() -> None:
    search = Search.load(ROOT / "experiments" / "search.yaml")
    coarse, fine = search.stages
    point = {"lr": 0.1, "weight_decay": 0.001}
    runs = [search.run_of(point, coarse, rung) for rung in range(3)] + [search.run_of(point, fine, 0)]
    assert [run.iterations for run in runs] == [1000, 3000, 9000, 27_000]
    settings = {"lr": 0.1, "weight_decay": 0.001, "validation": 5000}
    assert runs[2] == Run("lsuv", "relu", iterations=9000, milestones=(4000, 6000, 8000), **settings)


def test_a_file_and_its_defaults(tmp_path: Path) -> None:
    search = load(tmp_path)
    assert (search.name, search.batch, search.seed) == ("small", 4, 0)
    assert search.space == {"lr": Range(0.001, 0.3, log=True), "width": (0.0625, 0.125)}
    assert search.stages == (Stage(9, 0.5, 3), Stage(4))


def test_the_schedule_has_the_length_of_the_rung(tmp_path: Path) -> None:
    search = load(tmp_path)
    lengths = [search.run_of({"lr": 0.1, "width": 1.0}, search.stages[0], rung) for rung in range(3)]
    assert [(run.iterations, run.milestones) for run in lengths] == [
        (50, (22, 33, 44)),
        (150, (67, 100, 133)),
        (450, (200, 300, 400)),
    ]
    short = search.with_settings({"iterations": 9, "milestones": [4, 6, 8]})
    assert short.run_of({"lr": 0.1, "width": 1.0}, search.stages[0], 0).milestones == ()  # one iteration


def test_settings_fix_a_field_or_give_its_choices(tmp_path: Path) -> None:
    search = load(tmp_path).with_settings({"lr": 0.1, "width": [0.5, 1.0, 2.0], "momentum": 0.5})
    assert search.space == {"width": (0.5, 1.0, 2.0)}
    assert (search.run["lr"], search.run["momentum"]) == (0.1, 0.5)
    with pytest.raises(UsageError, match="a search does not choose validation; give one value"):
        search.with_settings({"validation": [10, 20]})
    with pytest.raises(UsageError, match="--set fixes every field of the space"):
        search.with_settings({"width": 1.0})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("validation: 20, ", "", "run.validation is missing, so the settings would be chosen by the test images"),
        ("validation: 20", "validation: 0", "run.validation is missing"),
        ("init: lsuv, ", "", "init is missing; give it in space or in run"),
        ("init: lsuv", "init: lsuv, lr: 0.1", "lr is in both space and run; remove one of them"),
        ("low: 0.001", "low: x", "space.lr: low must be a number, not 'x'"),
        ("[0.0625, 0.125]", "[0.5, 1]\n  optimizer: [sgd, rmsprop, adam]", "momentum = 0.9, but rmsprop has"),
        ("[0.0625, 0.125]", f"{[*range(1, 30)]}\n  batch_size: {[*range(1, 900)]}", "the lists of the space make 26"),
        ("[0.0625, 0.125]", "[0.0625, 1000]", "width = 1000 is out of range; give at most 64"),
        ("grid, random", "gridd", "unknown methods.0 'gridd'; choose from: 'grid', 'random' or 'tpe'"),
        ("grid, random", "grid, grid", "methods names one twice"),
        ("trials: 9", "trials: 3", "the smallest grid over the space has 4 points; give at least that many trials"),
        ("trials: 9", "trails: 9", "unknown key in stages 'trails' (did you mean 'trials'?)"),
        ("length: 0.5", "length: 2", "stages.0.length = 2 is out of range; give at most 1"),
        ("space:", "spaces:", "unknown key in the file 'spaces' (did you mean 'space'?)"),
        (SMALL, "grid: {init: [lsuv]}", "this is an experiment, not a search; use replicate matrix"),
        (SMALL, "", "the experiment file is empty; it needs: name, run"),
    ],
)
def test_wrong_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load(tmp_path, SMALL.replace(old, new))
    assert f"{tmp_path / 'small.yaml'}: {message}" in str(error.value)
