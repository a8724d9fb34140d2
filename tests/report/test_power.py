import math
from dataclasses import replace

import pytest
from made_up_records import ROOT, make_cell, make_result
from rich.console import Console

from replicate.errors import UsageError
from replicate.experiment import Experiment, TableSpec
from replicate.report.cell import cells
from replicate.report.claims import Claim, load_claims
from replicate.report.power import OFTEN, TABLES, Truth, power, print_power, truths
from replicate.report.published import read_reference
from replicate.report.statistics import Spread, Spreads
from replicate.run import Run
from replicate.store.run_folder import Records

TABLE3 = Experiment.load(ROOT / "experiments" / "table3.yaml")
NOTHING = Records({}, {}, others=0)


def paper(sd: float, runs: int) -> list[Truth]:
    """The paper's table, with this spread and this number of runs in every cell."""
    published = read_reference(ROOT / "results" / "paper" / "table3.csv", "init", "activation")
    table = cells(TABLE3.runs(), {}, "init", "activation")
    return [Truth(cell, published[cell.row, cell.column], sd, runs) for cell in table]


def claims() -> dict[str, Claim]:
    return {claim.id: claim for claim in load_claims(ROOT / "results" / "paper" / "claims.yaml")}


# In % of 300 tables, by another program
INDEPENDENT = {
    (0.145, 5): (29, 39, 16, 63),
    (0.20, 5): (20, 18, 13, 30),
    (0.20, 20): (64, 84, 45, 98),
    (0.20, 40): (94, 98, 77, 100),
}


@pytest.mark.parametrize(("sd", "runs"), INDEPENDENT)
def test_power_agrees_with_an_independent_simulation(sd: float, runs: int) -> None:
    names = ("lsuv-best-maxout", "lsuv-best-relu", "orthonormal-msra-best-vlrelu", "xavier-best-tanh")
    for name, other in zip(names, INDEPENDENT[sd, runs], strict=True):
        ours = power(claims()[name], paper(sd, runs)).decided
        p = (ours + other) / 200
        # both are shares of 300 tables; the other one is rounded
        assert abs(ours - other) < 3.5 * 100 * math.sqrt(2 * p * (1 - p) / TABLES) + 1


def test_the_ten_deciding_cells() -> None:
    """`table3-deciding.yaml` has the cells whose differences often leave a claim undecided, and only those."""
    deciding = set()
    for claim in claims().values():
        for name, often in power(claim, paper(0.2, 5)).not_significant.items():
            deciding |= set(name.split(" over ")) if often > OFTEN else set()
    more = Experiment.load(ROOT / "experiments" / "table3-deciding.yaml").runs()
    assert deciding == {cell.name for cell in cells(more, {}, "init", "activation")}
    assert set(more) < set(TABLE3.more_runs(TABLE3.runs()))
    assert sorted({run.seed for run in more}) == list(TABLE3.table.more_seeds)


def test_two_cells_by_hand() -> None:
    claim = Claim("a", "", "best", ({"init": "lsuv"},), {"activation": "relu"})
    upper, lower = make_cell("lsuv", "relu"), make_cell("xavier", "relu")
    truth = {3: [Truth(upper, 92.0, 0.3, 3), Truth(lower, 92.0, 0.3, 3)]}
    # equal means: Welch's test at 5 % rejects somewhat less often with three runs each
    assert 1 <= power(claim, truth[3], tables=1000).decided <= 6
    apart = [Truth(upper, 93.0, 0.01, 3), Truth(lower, 92.0, 0.01, 3)]
    assert power(claim, apart) == (100, {})
    assert power(claim, [Truth(upper, 93.0, 0.01, 2), apart[1]]).decided == 0  # fewer than three runs decide nothing
    failing = [apart[0], Truth(lower, "n/c", 0.3, 3)]
    assert power(claim, failing).decided == 100
    assert power(claim, failing, without=[Run("msra", "relu")]).decided == 0
    same = power(claim, truth[3])
    assert same == power(claim, truth[3])
    assert same.not_significant == {"LSUV × ReLU over Xavier × ReLU": 100 - same.decided}


def test_truths_take_the_spread_by_which_a_cell_is_judged() -> None:
    wide, narrow = (90.0, 91.0, 92.0), (90.0, 90.1, 90.2)
    table = [make_cell("lsuv", "relu", wide), make_cell("xavier", "relu", narrow, failed=1), make_cell("msra", "tanh")]
    published = {("lsuv", "relu"): 92.0, ("xavier", "relu"): 91.0, ("msra", "tanh"): 89.0}
    alike, unlike = (Spreads(Spread(0.5, 4), p) for p in (0.5, 0.01))
    assert [truth.runs for truth in truths(table, published, alike)] == [3, 4, 0]
    assert [truth.sd for truth in truths(table, published, alike)] == [0.5, 0.5, 0.5]
    # the last cell has no spread of its own
    assert [truth.sd for truth in truths(table, published, unlike)] == pytest.approx([1, 0.1, 0.5])
    assert truths(table, {}, alike) == truths(table, published, Spreads(None, None)) == []


def test_the_power_is_printed_below_numbers_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    runs = TABLE3.runs({"activation": "maxout"})
    print_power(TABLE3, runs, NOTHING, 0.2, [5, 1000], 20, Console(width=80))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["seeds", "per", "cell", "5", "1,000"] in lines
    assert ["MSRA", "does", "not", "converge", "with", "maxout", "100", "100"] in lines
    best = next(line for line in lines if line[:3] == ["LSUV", "is", "the"] and "maxout" in line)
    assert int(best[-2]) < 60
    assert best[-1] == "100"
    assert ["LSUV", "×", "maxout", "over", "OrthoNorm", "×", "maxout", *best[-2:]] in lines
    assert [
        "Sigmoid",
        "never",
        "converges,",
        "whatever",
        "the",
        "initialisation",
        "0",
        "0",
    ] in lines  # not among these runs


def test_the_spread_is_that_of_the_records(capsys: pytest.CaptureFixture[str]) -> None:
    results = {run.run_id: make_result(run, 93.0 + run.seed) for run in TABLE3.runs({"seed": [0, 1, 2]})}
    print_power(TABLE3, TABLE3.runs(), Records(results, {}, others=0), None, [5], 1, Console(width=200))
    assert "1.00 points with 46 degrees of freedom" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "sd", "message"),
    [
        (TableSpec(), 0.2, "table3 has no published numbers or no claims"),
        (TABLE3.table, None, "no cell has two converged runs, so their spread is unknown; give it, such as --sd 0.2"),
    ],
)
def test_what_is_missing_is_named(table: TableSpec, sd: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        print_power(replace(TABLE3, table=table), TABLE3.runs(), NOTHING, sd, [5], 20, Console())
