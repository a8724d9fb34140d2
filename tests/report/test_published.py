import math
import random
from pathlib import Path
from typing import Any

import pytest
from made_up_records import ROOT, make_cell

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.published import expected_outside, read_reference, recipe_note, verdict, why_not_comparable
from replicate.report.statistics import Spread, Spreads
from replicate.run import Run

# A pooled standard deviation of √3 with 3 degrees of freedom: ± 6.364893 around the mean of three runs
SPREAD = Spread(3**0.5, 3)
THREE = (50.0, 48.0, 52.0)


def test_the_papers_table() -> None:
    table = read_reference(ROOT / "results" / "paper" / "table3.csv", "init", "activation")
    assert len(table) == 23
    assert sum(number == "n/c" for number in table.values()) == 6
    assert table["lsuv", "maxout"] == 93.94
    assert table["msra", "maxout"] == "n/c"
    assert ("orthonormal_msra", "tanh") not in table


def test_numeric_axes_dashes_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "paper.csv"
    path.write_text("\ufeffwidth,relu,tanh\n\n0.25, 80.5 ,\n1,–,n/c\n", encoding="utf-8")
    assert read_reference(path, "width", "activation") == {(0.25, "relu"): 80.5, (1.0, "tanh"): "n/c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: the first line must hold 'init' and the values of 'activation'"),
        (b"init,relu,rleu\n", "line 1: unknown activation 'rleu'"),
        (b"init,relu,relu\n", "line 1: the first line must hold"),
        (b"init,relu\nlsuv,92\nlsuv,93\n", "line 3: row 'lsuv' must occur once"),
        (b"init,relu\nlsuv,92\n\nxavier,92,93\n", "line 4: row 'xavier' must occur once and have 1 entry"),
        (b"init,relu\nlsuv,good\n", "line 2: 'good' is not an accuracy"),
        (b"init,relu\nlsuv,101\n", "line 2: '101' is not an accuracy"),
        (b"\xff\xfe\x00", "cannot read the published numbers"),
        (None, "cannot read the published numbers: No such file"),
    ],
)
def test_wrong_content_names_the_file_and_the_line(tmp_path: Path, text: bytes | None, message: str) -> None:
    path = tmp_path / "paper.csv"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError) as caught:
        read_reference(path, "init", "activation")
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["table3", "table3-as-released", "table3-short"])
def test_which_cells_of_an_experiment_compare(name: str) -> None:
    runs = Experiment.load(ROOT / "experiments" / f"{name}.yaml").runs()
    cells = {(run.init, run.activation) for run in runs}
    made_to_train = {("msra", "maxout")}
    expected = {"table3": set(), "table3-as-released": made_to_train}.get(name, cells)
    assert {(run.init, run.activation) for run in runs if why_not_comparable(run)} == expected
    noted = {(run.init, run.activation) for run in runs if recipe_note(run)}
    assert noted == (set() if name == "table3-as-released" else {("xavier", "maxout"), *made_to_train})


def test_the_reasons_name_ours_and_the_papers() -> None:
    run = Run("lsuv", "relu", dataset="folder:cifar10-jpeg", width=0.25, iterations=3000, milestones=(1000,))
    assert why_not_comparable(run) == (
        "width 0.25 (paper: 1); dataset folder:cifar10-jpeg (paper: cifar10); iterations 3,000 (paper: 90,000); "
        "milestones 1,000 (paper: 40,000 / 60,000 / 80,000)"
    )
    assert why_not_comparable(Run("lsuv", "relu", precision="32-true")) == ""
    assert why_not_comparable(Run("lsuv", "relu", input_scale=1.0)) == "input_scale 1 (inferred: 0.7)"
    assert why_not_comparable(Run("xavier", "maxout", momentum=0.5, width=0.5)) == "width 0.5 (paper: 1)"
    assert "made so that it trains (milestones 80,000, " in (recipe_note(Run("msra", "maxout")) or "")


@pytest.mark.parametrize(
    ("accuracies", "failed", "published", "verdict_and_reason"),
    [
        (THREE, 0, 56.3, "consistent: "),
        (THREE, 0, 43.7, "consistent: "),
        (THREE, 0, 56.4, "lower: "),
        (THREE, 0, 43.6, "higher: "),
        (THREE, 0, "n/c", "higher: "),
        (THREE, 0, None, ": no published number"),
        ((), 3, "n/c", "consistent: "),
        ((), 3, 92.0, "lower: "),
        ((), 2, "n/c", "not judged: n = 2 < 3"),
        ((), 0, 91.0, "not judged: n = 0 < 3"),
        ((90.0, 91.0), 2, 91.0, "not judged: n = 2 < 3"),
    ],
)
def test_verdicts(accuracies: tuple[float, ...], failed: int, published: Any, verdict_and_reason: str) -> None:
    found = verdict(make_cell("lsuv", "relu", accuracies, failed), published, SPREAD)
    assert f"{found.word}: {found.reason}" == verdict_and_reason
    if accuracies == THREE:
        assert found.half_width == pytest.approx(6.364893)
        assert found.difference == (50 - published if isinstance(published, float) else None)


def test_another_protocol_and_no_spread() -> None:
    narrow = verdict(make_cell("lsuv", "relu", THREE, width=0.5), 91.0, SPREAD)
    assert (narrow.word, narrow.reason, narrow.difference) == ("not comparable", "width 0.5 (paper: 1)", None)
    assert verdict(make_cell("lsuv", "relu", THREE), 91.0, None).word == "not judged"


def test_one_in_twenty_is_outside_by_chance() -> None:
    chance = random.Random(0)
    verdicts = []
    for _ in range(200):
        table = [make_cell("lsuv", "relu", [chance.gauss(90, 0.3) for _ in range(5)]) for _ in range(17)]
        spread = Spreads.of(table).pooled
        verdicts += [verdict(cell, chance.gauss(90, 0.3), spread) for cell in table]
    outside = sum(judged.word != "consistent" for judged in verdicts)
    others = [verdict(table[0], number, spread) for number in ("n/c", None)]  # not judged by an interval
    # 3,400 numbers: 170 expected, a standard deviation of about 13
    assert expected_outside(verdicts + others) == pytest.approx(170)
    assert abs(outside - 170) < 50


def test_one_in_twenty_is_outside_also_where_spreads_differ() -> None:
    """Each of 18 cells has its own deviation, from 0.1 to 0.6. How often is a published number outside its interval?"""
    chance, tables = random.Random(0), 400
    deviations = [0.1 + 0.5 * cell / 17 for cell in range(18)]
    outside, outside_pooled = [0] * 18, [0] * 18
    for _ in range(tables):
        table = [make_cell("lsuv", "relu", [chance.gauss(90, sd) for _ in range(5)]) for sd in deviations]
        spreads = Spreads.of(table)
        for index, (cell, sd) in enumerate(zip(table, deviations, strict=True)):
            published = chance.gauss(90, sd)
            outside[index] += verdict(cell, published, spreads.judging(cell)).word != "consistent"
            outside_pooled[index] += verdict(cell, published, spreads.pooled).word != "consistent"
    # 20 of 400 expected, a standard deviation of 4.4; with the pooled deviation 0 for the narrow cells, 80 for the wide
    assert 6 <= min(outside) <= max(outside) <= 36
    assert (min(outside_pooled), max(outside_pooled) > 60) == (0, True)
    assert abs(sum(outside) - 18 * 20) < 4 * math.sqrt(18 * 20 * 0.95)
