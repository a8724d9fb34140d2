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


def decided(claim: Claim, truths: list[Truth], tables: int = TABLES) -> float:
    found = power(claim, truths, tables=tables)
    assert found is not None
    return found.decided


# In % of 20,000 tables, by an independent implementation; and in % of 300, by another one
INDEPENDENT = {
    (0.145, 5): ((31.0, 37.1, 19.5, 66.6), (29, 39, 16, 63)),
    (0.20, 5): ((18.0, 19.1, 12.1, 34.2), (20, 18, 13, 30)),
    (0.20, 20): ((69.1, 79.3, 45.7, 99.1), (64, 84, 45, 98)),
    (0.20, 40): ((93.9, 97.9, 75.2, 100.0), (94, 98, 77, 100)),
}
FOUR = ("lsuv-best-maxout", "lsuv-best-relu", "orthonormal-msra-best-vlrelu", "xavier-best-tanh")


def error(first: float, tables: int, second: float, others: int) -> float:
    """The difference that two shares, in %, of so many tables may have: 3.5 standard errors, and rounding."""
    p = (first + second) / 200
    return 3.5 * 100 * math.sqrt(p * (1 - p) * (1 / tables + 1 / others)) + 0.5


@pytest.mark.parametrize(("sd", "runs"), INDEPENDENT)
def test_power_agrees_with_independent_simulations(sd: float, runs: int) -> None:
    for name, many, few in zip(FOUR, *INDEPENDENT[sd, runs], strict=True):
        ours = decided(claims()[name], paper(sd, runs), tables=300)
        assert abs(ours - many) < error(ours, 300, many, 20_000)
        assert abs(ours - few) < error(ours, 300, few, 300)


def test_power_with_more_seeds_in_the_cells_that_decide() -> None:
    more = {(run.init, run.activation) for run in Experiment.load(ROOT / "experiments" / "table3-deciding.yaml").runs()}
    mixed = [replace(truth, runs=30 if (truth.cell.row, truth.cell.column) in more else 5) for truth in paper(0.2, 5)]
    for name, many in zip(FOUR, (86, 93, 63, 99), strict=True):
        ours = decided(claims()[name], mixed, tables=300)
        assert abs(ours - many) < error(ours, 300, many, 20_000)


def test_the_ten_deciding_cells() -> None:
    """`table3-deciding.yaml` has the cells whose differences often leave a claim undecided, and only those."""
    deciding = set()
    for claim in claims().values():
        found = power(claim, paper(0.2, 5))
        assert found is not None
        for name, often in found.not_significant.items():
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
    assert 1 <= decided(claim, truth[3], tables=1000) <= 6
    apart = [Truth(upper, 93.0, 0.01, 3), Truth(lower, 92.0, 0.01, 3)]
    assert power(claim, apart) == (100, {})
    assert decided(claim, [Truth(upper, 93.0, 0.01, 2), apart[1]]) == 0  # fewer than three runs decide nothing
    failing = [apart[0], Truth(lower, "n/c", 0.3, 3)]
    assert decided(claim, failing) == 100
    assert power(claim, failing, without=[Run("msra", "relu")]) is None
    assert power(claim, []) is None
    same = power(claim, truth[3])
    assert same == power(claim, truth[3])
    assert same == (same[0], {"LSUV × ReLU over Xavier × ReLU": 100 - same[0]})


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
    assert [truth.sd for truth in truths(table[2:], published, Spreads(None, None))] == [0]  # too few runs to matter


def test_the_power_is_printed_below_numbers_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    runs = TABLE3.runs({"activation": "maxout"})
    print_power(TABLE3, runs, NOTHING, 0.2, [2, 5, 1000], 20, Console(width=80))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "seeds per cell 2 5 1,000" in lines
    assert "MSRA does not converge with maxout 0 100 100" in lines
    best = next(line for line in lines if line.startswith("LSUV is the best initialisation for maxout"))
    assert 0 < int(best.split()[-2]) < 60
    numbers = best.removeprefix("LSUV is the best initialisation for maxout")
    assert f"LSUV × maxout over OrthoNorm × maxout{numbers}" in lines  # nothing else decides the claim
    assert not any("over Xavier × maxout" in line for line in lines)
    assert "Sigmoid never converges, whatever the initialisation – – –" in lines  # its cells are not among these runs
    assert lines[-2].startswith("Below a claim: the differences that decide it")
    print_power(TABLE3, runs, NOTHING, 0.2, [2], 20, Console(width=80))
    assert "Below a claim" not in capsys.readouterr().out
    one = TABLE3.runs({"init": "lsuv"})  # without its rivals
    print_power(TABLE3, one, NOTHING, 0.2, [5], 20, Console(width=80))
    assert "LSUV is the best initialisation for maxout –" in " ".join(capsys.readouterr().out.split())


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
