import random
from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Cell
from replicate.report.published import expected_outside, read_reference, recipe_note, verdict, why_not_comparable
from replicate.report.statistics import Pooled, pooled
from replicate.run import Run

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "paper.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_papers_table() -> None:
    table = read_reference(ROOT / "results" / "paper" / "table3.csv", "init", "activation")
    assert len(table) == 23
    assert sum(number == "n/c" for number in table.values()) == 6
    assert table["lsuv", "maxout"] == 93.94
    assert table["msra", "maxout"] == "n/c"
    assert ("orthonormal_msra", "tanh") not in table


def test_numeric_axes_dashes_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffwidth,relu,tanh\n\n0.25, 80.5 ,\n1,–,n/c\n")
    assert read_reference(path, "width", "activation") == {(0.25, "relu"): 80.5, (1.0, "tanh"): "n/c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("activation,relu\n", "line 1: the first entry must be 'init'"),
        ("init,relu,rleu\n", "line 1: unknown activation 'rleu'"),
        ("init,relu,relu\n", "line 1: the columns must be"),
        ("init\n", "line 1: the columns must be"),
        ("init,relu\nlsuv,92\nxaver,90\n", "line 3: unknown init 'xaver'"),
        ("init,relu\nlsuv,92\n\nlsuv,92\n", "line 4: row 'lsuv' stands there twice"),
        ("init,relu\nlsuv,92,93\n", "line 2: 2 entries for 1 columns"),
        ("init,relu\nlsuv,good\n", "line 2: 'good' is no accuracy"),
        ("init,relu\nlsuv,101\n", "line 2: '101' is no accuracy"),
        ("init,relu\nlsuv,nan\n", "line 2: 'nan' is no accuracy"),
    ],
)
def test_wrong_content_names_the_file_and_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read_reference(path, "init", "activation")
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("binary.csv", "absent.csv"):
        with pytest.raises(UsageError, match=f"{name}: cannot read"):
            read_reference(tmp_path / name, "init", "activation")


def test_every_cell_of_the_uniform_table_compares() -> None:
    assert {why_not_comparable(run) for run in Experiment.load(ROOT / "experiments" / "table3.yaml").runs()} == {""}


def test_as_released_compares_but_for_the_recipe_made_to_train() -> None:
    runs = Experiment.load(ROOT / "experiments" / "table3-as-released.yaml").runs()
    assert {(run.init, run.activation) for run in runs if why_not_comparable(run)} == {("msra", "maxout")}
    assert {recipe_note(run) for run in runs} == {None}


@pytest.mark.parametrize("name", ["table3-short", "pilot", "smoke"])
def test_no_cell_of_a_shrunk_table_compares(name: str) -> None:
    assert all(why_not_comparable(run) for run in Experiment.load(ROOT / "experiments" / f"{name}.yaml").runs())


def test_the_reasons_name_ours_and_the_papers() -> None:
    run = Run("lsuv", "relu", dataset="folder:cifar10-jpeg", width=0.25, iterations=3000, milestones=(1000,))
    assert why_not_comparable(run) == (
        "width 0.25 (paper: 1); dataset folder:cifar10-jpeg (paper: cifar10); iterations 3,000 (paper: 90,000); "
        "milestones 1,000 (paper: 40,000 / 60,000 / 80,000)"
    )
    assert why_not_comparable(Run("lsuv", "relu", precision="32-true")) == ""
    assert why_not_comparable(Run("lsuv", "relu", momentum=0.5)) == "momentum 0.5 (paper: 0.9)"
    assert why_not_comparable(Run("lsuv", "relu", input_scale=1.0)) == "input_scale 1 (inferred: 0.7)"
    assert why_not_comparable(Run("xavier", "maxout", momentum=0.5)) == ""
    assert why_not_comparable(Run("xavier", "maxout", momentum=0.5, width=0.5)) == "width 0.5 (paper: 1)"


def test_the_released_recipes_are_noted_where_they_are_not_followed() -> None:
    assert "(momentum 0.5)" in (recipe_note(Run("xavier", "maxout")) or "")
    assert "made so that it trains" in (recipe_note(Run("msra", "maxout")) or "")
    assert recipe_note(Run("xavier", "relu")) is None


# A pooled standard deviation of √3 with 3 degrees of freedom: ± 6.364893 around the mean of three runs
SPREAD = Pooled(3**0.5, 3)


@pytest.mark.parametrize(
    ("published", "word"), [(56.3, "consistent"), (43.7, "consistent"), (56.4, "lower"), (43.6, "higher")]
)
def test_the_published_number_in_the_prediction_interval(
    make_cell: Callable[..., Cell], published: float, word: str
) -> None:
    said = verdict(make_cell("lsuv", "relu", (50.0, 48.0, 52.0)), published, SPREAD)
    assert said.word == word
    assert said.difference == pytest.approx(50 - published)
    assert said.half_width == pytest.approx(6.364893)


def test_nc_on_either_side(make_cell: Callable[..., Cell]) -> None:
    failed = make_cell("lsuv", "sigmoid", not_converged=2, diverged=1)
    converged = make_cell("lsuv", "relu", (90.0, 91.0, 92.0))
    assert verdict(failed, "n/c", SPREAD).word == "consistent"
    assert verdict(failed, 92.0, SPREAD).word == "lower"
    assert verdict(converged, "n/c", SPREAD).word == "higher"


def test_too_few_runs_a_dash_and_another_protocol(make_cell: Callable[..., Cell]) -> None:
    two = make_cell("lsuv", "relu", (90.0, 91.0), not_converged=2)
    assert (verdict(two, 91.0, SPREAD).word, verdict(two, 91.0, SPREAD).reason) == ("not judged", "n = 2 < 3")
    assert verdict(make_cell("lsuv", "relu", diverged=2), "n/c", SPREAD).reason == "n = 2 < 3"
    assert verdict(make_cell("lsuv", "relu"), 91.0, SPREAD).reason == "n = 0 < 3"
    three = (90.0, 91.0, 92.0)
    assert verdict(make_cell("lsuv", "relu", three), None, SPREAD).word == ""
    shrunk = verdict(make_cell("lsuv", "relu", three, width=0.5), 91.0, SPREAD)
    assert (shrunk.word, shrunk.reason, shrunk.difference) == ("not comparable", "width 0.5 (paper: 1)", None)
    assert verdict(make_cell("lsuv", "relu", three), 91.0, None).word == "not judged"


def test_one_in_twenty_is_outside_by_chance(make_cell: Callable[..., Cell]) -> None:
    chance = random.Random(0)
    verdicts = []
    for _ in range(200):
        table = [make_cell("lsuv", "relu", [chance.gauss(90, 0.3) for _ in range(5)]) for _ in range(17)]
        spread = pooled(table)
        verdicts += [verdict(cell, chance.gauss(90, 0.3), spread) for cell in table]
    outside = sum(said.word != "consistent" for said in verdicts)
    # 3,400 numbers: 170 expected, a standard deviation of about 13
    assert expected_outside(verdicts) == pytest.approx(170)
    assert abs(outside - 170) < 50


def test_only_judged_numbers_count_as_expected_outside(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell("lsuv", "relu", (90.0, 91.0, 92.0))
    verdicts = [verdict(cell, number, SPREAD) for number in (91.0, 50.0, "n/c", None)]
    assert expected_outside(verdicts) == pytest.approx(0.05 * 2)
