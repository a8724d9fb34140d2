"""Experiment files: the shipped ones, the expansion, and what is refused."""

import contextlib
import json
from pathlib import Path
from unittest.mock import Mock

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate import experiment as experiment_module
from replicate import grid
from replicate.errors import UsageError
from replicate.experiment import Experiment, TableSpec, json_schema
from replicate.run import Run
from replicate.yamlfile import assignments, parse

ROOT = Path(__file__).parents[1]
SMALL = """
grid: {init: [lsuv, xavier], activation: [relu, tanh], seed: [0, 1]}
exclude: [{init: xavier, activation: tanh}]
run: {iterations: 10, milestones: [5], weight_decay: 5e-4}
overrides: [{when: {init: xavier}, set: {momentum: 0.5, lr: 0.001}}]
"""
OTHERS = {ROOT / "experiments" / name for name in ("search.yaml", "sweep.yaml")}  # of replicate search and of W&B
SHIPPED = set((ROOT / "experiments").glob("*.yaml")) - OTHERS
SCHEMA = json.loads((ROOT / "experiments" / "schema.json").read_text())


def load(folder: Path, text: str) -> Experiment:
    path = folder / "small.yaml"
    path.write_text(text)
    return Experiment.load(path)


def test_the_shipped_experiments_have_the_protocol_of_the_paper() -> None:
    sizes = {"table3": 115, "table3-short": 69, "table3-as-released": 115, "pilot": 23, "smoke": 23, "input-scale": 36}
    sizes |= {"activations": 12 * 3, "preprocessing": 9 * 2}
    found = {path.stem: Experiment.load(path) for path in SHIPPED}
    assert {name: len(found[name].runs()) for name in sizes} == sizes
    for run in found["table3"].runs():  # uniform: the defaults of Run are the paper's protocol
        assert run == Run(run.init, run.activation, run.seed)
    for name in ("table3", "table3-as-released", "table3-short", "pilot"):
        assert {run.input_scale for run in found[name].runs()} == {0.7}
    schedules = {(run.iterations, run.milestones) for name in ("table3-short", "pilot") for run in found[name].runs()}
    assert schedules == {(18_000, (8_000, 12_000, 16_000)), (3_000, (1333, 2000, 2667))}


def test_a_search_is_no_experiment() -> None:
    with pytest.raises(UsageError, match=r"search\.yaml: this is a search, not an experiment; use replicate search"):
        Experiment.load(ROOT / "experiments" / "search.yaml")


def test_as_released_differs_in_two_cells() -> None:
    files = (ROOT / "experiments" / name for name in ("table3.yaml", "table3-as-released.yaml"))
    uniform, released = (Experiment.load(path).runs({"seed": 0}) for path in files)
    msra = Run("msra", "maxout", lr=0.001, momentum=0.5, milestones=[80_000], clip_norm=50)
    assert set(released) - set(uniform) == {msra, Run("xavier", "maxout", momentum=0.5)}


def test_more_seeds() -> None:
    experiment = Experiment(
        name="a",
        grid={"init": ("lsuv", "msra"), "seed": (0, 1)},
        run={"activation": "relu"},
        table=TableSpec(more_seeds=(1, 7)),
    )
    lsuv, msra = Run("lsuv", "relu", 7), Run("msra", "relu", 7)
    assert experiment.more_runs(experiment.runs()) == (lsuv, msra)
    assert experiment.more_runs(experiment.runs({"init": "msra"})) == (msra,)
    assert experiment.with_settings({"lr": 0.5}).more_runs([lsuv]) == (Run("lsuv", "relu", 1),)
    assert experiment.with_settings({"seed": [0]}).table.more_seeds == ()


def test_expansion_by_hand(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL)
    assert experiment.name == "small"
    lsuv = [Run("lsuv", act, seed, iterations=10, milestones=[5]) for seed in (0, 1) for act in ("relu", "tanh")]
    xavier = [Run("xavier", "relu", s, iterations=10, milestones=[5], momentum=0.5, lr=0.001) for s in (0, 1)]
    # seeds in the outer loop: all cells of seed 0 come before any of seed 1
    assert experiment.runs() == (*lsuv[:2], xavier[0], *lsuv[2:], xavier[1])


def test_patterns_match_defaults_too(tmp_path: Path) -> None:
    text = "grid: {init: [lsuv, msra]}\nrun: {activation: relu}\n"
    experiment = load(tmp_path, text + "exclude: [{init: msra, lr: 0.01}]")
    assert [run.init for run in experiment.runs()] == ["lsuv"]
    changed = load(tmp_path, text + "overrides: [{when: {init: msra, momentum: 0.9}, set: {momentum: 0.5}}]")
    assert [run.momentum for run in changed.runs()] == [0.9, 0.5]


def test_patterns_match_what_earlier_overrides_have_set(tmp_path: Path) -> None:
    text = "grid: {init: [lsuv, msra]}\nrun: {activation: relu}\noverrides:\n"
    text += (
        "- {when: {init: msra}, set: {lr: 0.5}}\n- {when: {lr: 0.5}, set: {pad: 4}}\nexclude: [{pad: 8}, {lr: 0.01}]"
    )
    assert load(tmp_path, text).runs() == (Run("msra", "relu", lr=0.5, pad=4),)


ONE = "grid: {init: [lsuv], activation: [relu], %s}\n"
BOMBS = [
    (ONE % f"seed: {[*range(1000)]}, pad: {[*range(21)]}", "the grid has 21,000 runs; the maximum is 20,000"),
    (
        ONE % f"seed: {[*range(100)]}" + f"overrides: [&a {{when: {{init: lsuv}}, set: {{pad: 1}}}}{', *a' * 2000}]",
        "100 runs with 2,001 overrides and exclusions make 200,100 comparisons; the maximum is 200,000",
    ),
    (
        ONE % f"seed: {[*range(100)]}" + f"exclude: [&a {{seed: 1}}{', *a' * 2000}]",
        "100 runs with 2,001 overrides and exclusions make 200,100 comparisons; the maximum is 200,000",
    ),
]


@pytest.mark.parametrize(("text", "message"), BOMBS)
def test_a_bomb_is_refused_before_it_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    for name in ("Run", "matches", "Counter"):
        monkeypatch.setattr(experiment_module, name, Mock(side_effect=AssertionError("expanded")))
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'small.yaml'}: {message}"


def test_more_seeds_are_bounded_with_their_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Mock(wraps=experiment_module.replace)
    monkeypatch.setattr(experiment_module, "replace", copies)
    text = ONE % "lr: [0.1, 0.2, 0.3], seed: [0, 1]" + f"table: {{more_seeds: {[*range(5000)]}}}"
    experiment = load(tmp_path, text)
    with pytest.raises(
        UsageError, match=r"5 cells and 5,000 of table\.more_seeds make 25,000 runs; the maximum is 20,"
    ):
        experiment.with_settings({"lr": [0.1, 0.2, 0.3, 0.4, 0.5]})
    # one cell of each seed, because of an override
    with pytest.raises(UsageError, match=r"6 cells and 5,000 of table\.more_seeds make 30,000 runs"):
        load(tmp_path, text + "\noverrides: [{when: {seed: 1}, set: {pad: 4}}]")
    assert copies.call_count < 50


def test_a_bomb_of_the_command_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load(tmp_path, SMALL)
    seeds = assignments("--set", ["seed=0-59999"])
    with pytest.raises(UsageError, match="the grid has 20,001 runs; the maximum is 20,000"):
        Experiment(name="a", grid={"seed": range(20_001)})
    monkeypatch.setattr(grid, "check_settings", Mock(side_effect=AssertionError("checked")))
    for refused in (experiment.with_settings, experiment.runs):
        with pytest.raises(UsageError, match="seed has 60,000 values; the maximum is 20,000"):
            refused(seeds)


def test_a_grid_of_the_maximal_size() -> None:
    seeds = [*range(grid.MAX_RUNS)]
    experiment = Experiment(name="a", grid={"init": ["lsuv"], "activation": ["relu"], "seed": seeds})
    assert [run.seed for run in experiment.runs({"seed": seeds[1:]})] == seeds[1:]


@given(seeds=st.integers(1, 250), pads=st.integers(1, 33), rates=st.integers(1, 20), patterns=st.integers(0, 30))
@settings(max_examples=40)
def test_a_grid_is_refused_if_and_only_if_it_is_too_large(seeds: int, pads: int, rates: int, patterns: int) -> None:
    axes = {"seed": range(seeds), "pad": range(pads), "lr": [1 / number for number in range(1, 1 + rates)]}
    runs = seeds * pads * rates
    refused = runs > grid.MAX_RUNS or runs * patterns > grid.MAX_COMPARISONS
    with pytest.raises(UsageError, match="the maximum is") if refused else contextlib.nullcontext():
        Experiment(name="a", grid=axes, exclude=[{"init": "msra"}] * patterns)


def test_only_and_set(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL)
    assert [run.seed for run in experiment.runs({"init": "xavier"})] == [0, 1]
    assert len(experiment.runs({"init": ["lsuv", "xavier"], "seed": 1})) == 3
    assert len(experiment.runs({"milestones": [5]})) == 6
    replaced = experiment.with_settings({"seed": [7, 8, 9], "width": 0.5})
    assert {(run.seed, run.width) for run in replaced.runs()} == {(7, 0.5), (8, 0.5), (9, 0.5)}
    assert {run.lr for run in experiment.with_settings({"lr": 0.1}).runs()} == {0.1}  # wins over the file's override
    assert {run.width for run in experiment.with_settings({"width": [0.5, 1]}).runs()} == {0.5, 1.0}
    assert experiment.with_settings({"milestones": [2, 4]}).runs()[0].milestones == (2, 4)
    assert experiment.with_settings({"milestones": 3}).runs()[0].milestones == (3,)
    assert len(experiment.with_settings({"milestones": [[2], [4]]}).runs()) == 12
    with pytest.raises(UsageError, match="seed must be a whole number, not 'x'"):
        experiment.with_settings({"seed": [0, "x"]})
    with pytest.raises(UsageError, match=r"milestones\.0 must be a whole number, not 2\.5"):
        experiment.with_settings({"milestones": 2.5})
    with pytest.raises(UsageError, match="unknown activation in --only 'tanh'; choose from: relu"):
        experiment.runs({"init": "xavier", "activation": "tanh"})


# What an editor that has the schema finds as well
FOUND_BY_EDITORS = [
    ("- a\n- b", "the file must be a mapping"),
    ("run: {init: lsuv}", "grid is missing"),
    ("runs: {}", "unknown key in the file 'runs'.*choose from: name, grid"),
    ("grid: {init: lsuv}", "grid.init must be a list, not 'lsuv'"),
    ("grid: {init: []}", "grid.init is empty"),
    ("grid: {inti: [lsuv]}", r"unknown key in grid 'inti' \(did you mean 'init'\?\)"),
    ("grid: {init: [LSUV]}", "unknown init 'LSUV'"),
    ("grid: {seed: [-1]}", r"grid.seed.0 = -1 is out of range"),
    ("grid: {init: [lsuv]}\nrun: {activation: relu, lr: fast}", "lr must be a number, not 'fast'"),
    ("grid: {init: [lsuv]}\nrun: {dataset: imagenet}", "unknown dataset 'imagenet'"),
    ("grid: {init: [lsuv]}\nexclude: [{}]", "exclude covers the whole grid"),
    ("grid: {init: [lsuv]}\nexclude: [{activation: max-out}]", "unknown activation 'max-out'"),
    ("grid: {init: [lsuv]}\noverrides: [{if: 1}]", "unknown key in overrides 'if'; choose from: when, set"),
    ("grid: {init: [lsuv]}\noverrides: [{when: {seed: 0}}]", "overrides.0.set is missing"),
    ("grid: {init: [lsuv]}\nname: a/b", "name must be a plain word"),
]
RELU = "grid: {init: [lsuv, xavier]}\nrun: {activation: relu}\n"
FOUND_BY_THE_READER = [
    ("", "the experiment file is empty"),
    ("grid: [", r"not a YAML file \(line 1\)"),
    ("\x00", "not a YAML file"),
    ("grid: {init: [lsuv], seed: [0], seed: [1]}", r"not a YAML file \(line 1\): the key seed occurs twice"),
    ("grid: {init: [lsvu]}", "unknown init 'lsvu'.*; one of your own needs --plugin FILE"),  # editors know no plugins
    ("grid: {width: [1, 1.0]}", "grid.width holds 1.0 twice"),
    ("grid: {init: [lsuv]}", "activation is missing; give it in grid or in run"),
    ("grid: {init: [lsuv]}\nrun: {init: xavier}", "init is in both grid and run"),
    (RELU + "exclude: [{init: msra}]", "exclude {init: msra} matches no run"),
    (RELU + "overrides: [{when: {lr: 0.5}, set: {pad: 4}}]", "when {lr: 0.5} matches no run of the grid"),
    (RELU + "overrides: [&a {when: {lr: 0.01}, set: {lr: 0.5}}, *a]", "when {lr: 0.01} matches no run of the grid"),
    (RELU + "overrides: [{when: {lr: 0.01}, set: {lr: 0.5}}]\nexclude: [{lr: 0.01}]", "exclude {lr: 0.01} matches no"),
    (RELU + "overrides: [{when: {init: lsuv}, set: {init: xavier}}]", "two runs of the grid have the same settings"),
    ("grid: {init: [lsuv]}\ntable: {rows: depth}", "unknown axis in table.rows 'depth'"),
    ("grid: {init: [lsuv]}\ntable: {reference: no.csv}", "table names 'no.csv', which is in no folder above"),
]


@pytest.mark.parametrize(("text", "message"), FOUND_BY_EDITORS + FOUND_BY_THE_READER)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "small.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [text for text, _ in FOUND_BY_EDITORS])
def test_editors_find_what_the_reader_refuses(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(parse(text), SCHEMA)


def test_the_schema_for_editors_is_current() -> None:
    assert json.loads(json_schema()) == SCHEMA, "make schema"


@pytest.mark.parametrize("path", sorted(SHIPPED), ids=lambda path: path.stem)
def test_editors_find_the_schema_and_no_fault_in_the_shipped_files(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")
    jsonschema.validate(parse(path.read_text()), SCHEMA)


def test_cells_that_the_file_excludes(tmp_path: Path) -> None:
    experiment = load(tmp_path, SMALL + "table: {rows: init, columns: activation}")
    cells = [(init, activation) for init in ("lsuv", "xavier") for activation in ("relu", "tanh")]
    assert [experiment.has_cell(*cell) for cell in cells] == [True, True, True, False]
    partly = load(tmp_path, SMALL.replace("activation: tanh}", "activation: tanh, seed: 0}"))
    assert partly.has_cell("xavier", "tanh")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smoke", "; did you mean experiments/smoke.yaml?"),
        ("other/pilto.yml", "; did you mean experiments/pilot.yaml?"),
        ("birds", "; choose from: experiments/pilot.yaml, experiments/smoke.yaml"),
    ],
)
def test_a_file_that_is_not_there_is_looked_for_in_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = f"{name}: cannot read the experiment file: No such file or directory"
    for expected in (problem, problem + hint):
        with pytest.raises(UsageError) as caught:
            Experiment.load(name)
        assert str(caught.value) == expected
        (tmp_path / "experiments").mkdir(exist_ok=True)
        for known in ("smoke", "pilot"):
            (tmp_path / "experiments" / f"{known}.yaml").touch()


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UsageError, match="not UTF-8"):
        Experiment.load(tmp_path / "latin.yaml")
