from collections.abc import Callable
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.report.cell import Cell
from replicate.report.claims import Claim, judge, load_claims
from replicate.report.statistics import welch
from replicate.run import Run

ROOT = Path(__file__).parents[2]
MakeCell = Callable[..., Cell]

NEVER = Claim("never", "sigmoid never", "never_converges", ({"activation": "sigmoid"},))
BEST = Claim("best", "LSUV is best", "best", ({"init": "lsuv", "activation": "relu"},), {"activation": "relu"})
ORDER = Claim(
    "order", "maxout > ReLU > tanh", "descending", tuple({"activation": a} for a in ("maxout", "relu", "tanh"))
)


def around(mean: float) -> tuple[float, ...]:
    """Five runs with this mean and a standard deviation of 0.158."""
    return tuple(mean + step for step in (-0.2, -0.1, 0.0, 0.1, 0.2))


# --- reading -------------------------------------------------------------------------------------------------------


def test_the_papers_claims() -> None:
    claims = load_claims(ROOT / "results" / "paper" / "claims.yaml")
    assert [claim.kind for claim in claims] == ["never_converges"] * 2 + ["best"] * 4 + ["descending"]
    assert claims[2].among == {"activation": "maxout"}
    assert claims[6].cells[1] == {"init": "lsuv", "activation": "vlrelu"}


GOOD = "- {id: a, text: A, kind: best, cells: [{init: lsuv}], among: {activation: relu}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot read the claims"),
        ("a: 1", "claims must be a list"),
        ("- 1", "claim 1: a claim must be a mapping"),
        (GOOD + GOOD, "claim a: the id occurs twice"),
        (GOOD.replace("among", "amng"), "claim a: unknown key in a claim 'amng' (did you mean 'among'?)"),
        (
            GOOD.replace("kind: best", "kind: bst"),
            "unknown kind 'bst' (did you mean 'best'?)",
        ),
        (GOOD.replace("among", "5: 1, among"), "claim a: unknown key in a claim 5; choose from: id, text, kind"),
        (GOOD.replace("text: A", "text: 1"), "text must be text, not 1"),
        (GOOD.replace("init: lsuv", "init: lsvu"), "unknown init 'lsvu'"),
        (
            GOOD.replace("activation: relu", "activaton: relu"),
            "unknown key in among 'activaton'",
        ),
        (GOOD.replace("init: lsuv", "seed: 0"), "a cell holds all of its seeds, so leave seed out"),
        (GOOD.replace("[{init: lsuv}]", "[]"), "cells is empty; give at least one value"),
        (GOOD.replace("{init: lsuv}", "lsuv"), "cells.0 must be a mapping of `key: value` lines, not 'lsuv'"),
        (GOOD.replace("[{init: lsuv}]", "[{init: lsuv}, {init: msra}]"), "best is claimed of one cell, not of 2"),
        (GOOD.replace(", among: {activation: relu}", ""), "best needs among"),
        (GOOD.replace("best", "descending"), "descending needs at least two cells"),
        (GOOD.replace("best", "never_converges"), "never_converges takes no among"),
    ],
)
def test_wrong_content_names_the_file_and_the_claim(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_claims(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the claims: No such file"):
        load_claims(tmp_path / "absent.yaml")


# --- never_converges -----------------------------------------------------------------------------------------------


def test_never_converges(make_cell: MakeCell) -> None:
    failed = make_cell("lsuv", "sigmoid", not_converged=3)
    also = make_cell("msra", "sigmoid", diverged=2, not_converged=1, errors=2)
    relu = make_cell("lsuv", "relu", around(90))
    said = judge(NEVER, [failed, also, relu])
    assert (said.verdict, said.reason) == ("supported", "none of 6 runs converged")
    assert said.effect is not None
    assert said.effect.interval is not None
    assert (said.effect.value, said.effect.unit, said.effect.interval.low) == (0, "%", 0)
    assert said.effect.interval.high == pytest.approx(100 * (1 - 0.025 ** (1 / 6)))

    few = judge(NEVER, [failed, make_cell("msra", "sigmoid", diverged=2)])
    assert (few.verdict, few.reason) == ("undecided", "n < 3: MSRA × sigmoid (n = 2)")
    one = judge(NEVER, [failed, make_cell("msra", "sigmoid", (30.0,), diverged=1)])
    assert (one.verdict, one.reason) == ("contradicted", "1 of 5 runs converged: MSRA × sigmoid")
    assert judge(NEVER, [relu]).reason == "not in this experiment"
    assert judge(NEVER, [make_cell("lsuv", "sigmoid")]).effect is None


# --- best ----------------------------------------------------------------------------------------------------------


def test_best_is_supported_if_every_rival_is_beaten(make_cell: MakeCell) -> None:
    cells = [make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91))]
    cells += [make_cell("orthonormal", "relu", around(91.5)), make_cell("msra", "relu", diverged=3)]
    cells.append(make_cell("xavier", "tanh", around(99)))  # no rival
    said = judge(BEST, cells)
    assert said.verdict == "supported"
    assert said.reason == "LSUV × ReLU is above Xavier × ReLU, OrthoNorm × ReLU, MSRA × ReLU"
    assert said.effect is not None
    assert said.effect.label == "LSUV × ReLU − OrthoNorm × ReLU"
    assert said.effect.value == pytest.approx(0.5)
    assert said.effect.interval == welch(around(92), around(91.5)).interval


def test_best_is_undecided_where_one_difference_may_be_chance(make_cell: MakeCell) -> None:
    cells = [make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91))]
    said = judge(BEST, [*cells, make_cell("orthonormal", "relu", around(91.95))])
    assert said.verdict == "undecided"
    assert said.reason.startswith("not shown: LSUV × ReLU over OrthoNorm × ReLU (Holm p = 0.63)")


def test_the_correction_counts_the_comparisons(make_cell: MakeCell) -> None:
    # one difference of 0.26 has p = 0.03: enough alone, too little as one of two equal ones
    lsuv, rival = make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91.74))
    assert 0.025 < welch(lsuv.accuracies, rival.accuracies).p < 0.05
    assert judge(BEST, [lsuv, rival]).verdict == "supported"
    assert judge(BEST, [lsuv, rival, make_cell("msra", "relu", around(91.74))]).verdict == "undecided"


def test_best_is_contradicted_by_one_higher_rival_or_by_failure(make_cell: MakeCell) -> None:
    lsuv = make_cell("lsuv", "relu", around(92))
    others = [make_cell("xavier", "relu", around(91)), make_cell("msra", "relu", around(93))]
    said = judge(BEST, [lsuv, *others])
    assert said.verdict == "contradicted"
    assert said.reason.startswith("MSRA × ReLU is above LSUV × ReLU (Holm p = ")
    failed = judge(BEST, [make_cell("lsuv", "relu", not_converged=5), *others])
    assert (failed.verdict, failed.effect) == ("contradicted", None)
    assert failed.reason == "LSUV × ReLU is n/c, Xavier × ReLU is not"


def test_best_needs_three_runs_everywhere_and_a_rival(make_cell: MakeCell) -> None:
    lsuv = make_cell("lsuv", "relu", around(92))
    two = judge(BEST, [lsuv, make_cell("xavier", "relu", (80.0, 80.1))])
    assert (two.verdict, two.reason) == ("undecided", "n < 3: Xavier × ReLU (n = 2)")
    assert two.effect is not None
    assert two.effect.interval is not None
    one = judge(BEST, [make_cell("lsuv", "relu", (92.0,)), make_cell("xavier", "relu", (80.0,))])
    assert (one.verdict, one.reason) == ("undecided", "n < 3 in every cell")
    assert one.effect is not None
    assert (one.effect.value, one.effect.interval) == (12, None)
    assert judge(BEST, [lsuv, make_cell("msra", "relu", diverged=2)]).verdict == "undecided"
    assert judge(BEST, [lsuv]).reason == "no rival in this experiment"
    assert judge(BEST, [make_cell("msra", "relu", around(92))]).reason == "not in this experiment"


def test_two_failures_do_not_rank(make_cell: MakeCell) -> None:
    cells = [make_cell("lsuv", "relu", diverged=3), make_cell("msra", "relu", diverged=3)]
    assert judge(BEST, cells).reason == "not shown: LSUV × ReLU over MSRA × ReLU (both n/c)"


# --- descending ----------------------------------------------------------------------------------------------------


def test_descending(make_cell: MakeCell) -> None:
    maxout, relu = make_cell("lsuv", "maxout", around(94)), make_cell("lsuv", "relu", around(92))
    tanh = make_cell("lsuv", "tanh", around(91))
    said = judge(ORDER, [tanh, relu, maxout])
    assert said.verdict == "supported"
    assert said.reason == "LSUV × maxout is above LSUV × ReLU, which is above LSUV × tanh"
    assert said.effect is not None
    assert said.effect.label == "LSUV × ReLU − LSUV × tanh"
    assert said.effect.value == pytest.approx(1)

    assert judge(ORDER, [maxout, relu, make_cell("lsuv", "tanh", not_converged=4)]).verdict == "supported"
    assert judge(ORDER, [maxout, make_cell("lsuv", "relu", diverged=4), tanh]).verdict == "contradicted"
    assert judge(ORDER, [maxout, relu, make_cell("lsuv", "tanh", around(93))]).verdict == "contradicted"
    assert judge(ORDER, [maxout, relu, make_cell("lsuv", "tanh", around(92))]).verdict == "undecided"
    assert judge(ORDER, [maxout, relu]).reason == "not in this experiment"


# --- what a claim is about -----------------------------------------------------------------------------------------


def test_a_pattern_that_names_several_cells_decides_nothing(make_cell: MakeCell) -> None:
    claim = Claim("best", "", "best", ({"activation": "relu"},), {"activation": "tanh"})
    said = judge(claim, [make_cell("lsuv", "relu", around(92)), make_cell("msra", "relu", around(92))])
    assert (said.verdict, said.reason) == (
        "undecided",
        "names 2 cells of this table, and needs one: LSUV × ReLU, MSRA × ReLU",
    )


def test_a_claim_on_cells_that_the_table_leaves_out_is_undecided(make_cell: MakeCell) -> None:
    cells = [make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91))]
    assert judge(BEST, cells, left_out=[Run("msra", "relu")]).reason == "not all of its cells are in this table"
    assert judge(BEST, cells, left_out=[Run("msra", "tanh")]).verdict == "supported"


def test_cells_that_are_not_trained_alike_decide_nothing(make_cell: MakeCell) -> None:
    best = Claim("id", "text", "best", ({"init": "lsuv", "activation": "maxout"},), {"activation": "maxout"})
    ours = make_cell("lsuv", "maxout", [94.0, 94.1, 94.2])
    other = make_cell("xavier", "maxout", [90.0, 90.1, 90.2], momentum=0.5)
    assert judge(best, [ours, other]).verdict == "undecided"
    assert "momentum differs" in judge(best, [ours, other]).reason
    assert judge(best, [ours, make_cell("xavier", "maxout", [90.0, 90.1, 90.2])]).verdict == "supported"


def test_a_recipe_made_so_that_it_trains_contradicts_nothing(make_cell: MakeCell) -> None:
    never = Claim("id", "text", "never_converges", ({"init": "msra", "activation": "maxout"},))
    released = {"lr": 0.001, "momentum": 0.5, "milestones": [80_000], "clip_norm": 50}
    judged = judge(never, [make_cell("msra", "maxout", [91.0, 91.1, 91.2], **released)])
    assert (judged.verdict, "made so that it trains" in judged.reason) == ("undecided", True)
    assert judge(never, [make_cell("msra", "maxout", [91.0])]).verdict == "contradicted"
