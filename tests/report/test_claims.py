from pathlib import Path
from typing import Any

import pytest
from made_up_records import make_cell

from replicate.errors import UsageError
from replicate.report.claims import Claim, Effect, judge, load_claims
from replicate.report.statistics import welch
from replicate.run import Run

NEVER = Claim("never", "sigmoid never", "never_converges", ({"activation": "sigmoid"},))
BEST = Claim("best", "LSUV is best", "best", ({"init": "lsuv", "activation": "relu"},), {"activation": "relu"})
ORDER = Claim("order", "", "descending", tuple({"activation": name} for name in ("maxout", "relu", "tanh")))


def around(mean: float) -> tuple[float, ...]:
    """Five runs with this mean and a standard deviation of 0.158."""
    return tuple(mean + step for step in (-0.2, -0.1, 0.0, 0.1, 0.2))


# --- reading -------------------------------------------------------------------------------------------------------


GOOD = "- {id: a, text: A, kind: best, cells: [{init: lsuv}], among: {activation: relu}}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the claims: No such file"),
        ("[", "cannot read the claims"),
        ("a: 1", "claims must be a list"),
        (GOOD + GOOD, "claim a: the id occurs twice"),
        (GOOD.replace("among", "amng"), "claim a: unknown key in a claim 'amng' (did you mean 'among'?)"),
        (GOOD.replace("kind: best", "kind: bst"), "unknown kind 'bst' (did you mean 'best'?)"),
        (GOOD.replace("init: lsuv", "init: lsvu"), "unknown init 'lsvu'"),
        (GOOD.replace("init: lsuv", "seed: 0"), "a cell holds all of its seeds, so leave seed out"),
        (GOOD.replace("{init: lsuv}", "{}"), "cells.0 is empty; give at least one value"),
        (GOOD.replace(", among: {activation: relu}", ""), "best needs one cell, and among, its rivals"),
        (GOOD.replace("best", "never_converges"), "never_converges takes no among"),
        ("- {id: a, text: A, kind: descending, cells: [{init: lsuv}]}", "descending needs at least two cells"),
    ],
)
def test_wrong_content_names_the_file_and_the_claim(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "claims.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_claims(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


# --- judging -------------------------------------------------------------------------------------------------------

TWO_CELLS = Claim("two", "", "best", ({"activation": "relu"},), {"activation": "tanh"})
LSUV = {"lsuv-relu": around(92)}
BOTH = {**LSUV, "xavier-relu": around(91)}


@pytest.mark.parametrize(
    ("claim", "cells", "verdict_and_reason"),
    [
        (NEVER, {"lsuv-sigmoid": 3, "msra-sigmoid": 3, "lsuv-relu": (90.0,)}, "supported: none of 6 runs converged"),
        (NEVER, {"lsuv-sigmoid": 3, "msra-sigmoid": 2}, "undecided: n < 3: MSRA × sigmoid (n = 2)"),
        (NEVER, {"lsuv-sigmoid": 3, "msra-sigmoid": (30.0,)}, "contradicted: 1 of 4 runs converged: MSRA × sigmoid"),
        # of the rivals, one is n/c; the last cell is no rival
        (
            BEST,
            {**BOTH, "msra-relu": 3, "msra-tanh": (99.0,)},
            "supported: LSUV × ReLU is above Xavier × ReLU, MSRA × ReLU",
        ),
        # one difference may be due to chance
        (
            BEST,
            {**BOTH, "msra-relu": around(91.9)},
            "undecided: not significant: LSUV × ReLU over MSRA × ReLU (Holm p = 0.35)",
        ),
        (BEST, {**BOTH, "msra-relu": around(93)}, "contradicted: MSRA × ReLU is above LSUV × ReLU (Holm p = 1.7e-05)"),
        (BEST, {**BOTH, "lsuv-relu": 5}, "contradicted: LSUV × ReLU is n/c, Xavier × ReLU is not"),
        (BEST, {"lsuv-relu": 3, "msra-relu": 3}, "undecided: not significant: LSUV × ReLU over MSRA × ReLU (both n/c)"),
        (BEST, {"lsuv-relu": (92.0,), "xavier-relu": (80.0,)}, "undecided: n < 3 in every cell"),
        (BEST, LSUV, "undecided: no rival in this experiment"),
        (
            ORDER,
            {"lsuv-tanh": 4, "lsuv-relu": around(92), "lsuv-maxout": around(94)},
            "supported: LSUV × maxout is above LSUV × ReLU, which is above LSUV × tanh",
        ),
        (ORDER, {"lsuv-maxout": around(94), **LSUV}, "undecided: not in this experiment"),
        (TWO_CELLS, BOTH, "undecided: a pattern matches 2 cells instead of one: LSUV × ReLU, Xavier × ReLU"),
    ],
)
def test_verdicts(claim: Claim, cells: dict[str, Any], verdict_and_reason: str) -> None:
    """A cell is given by its accuracies, or by the number of its runs that failed to converge."""
    made = [
        make_cell(*name.split("-"), **({"failed": runs} if isinstance(runs, int) else {"accuracies": runs}))
        for name, runs in cells.items()
    ]
    found = judge(claim, made)
    assert f"{found.verdict}: {found.reason}" == verdict_and_reason


def test_the_correction_counts_the_comparisons() -> None:
    # one difference of 0.26 has p = 0.03: enough for a single comparison, but not as one of two
    lsuv, rival = make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91.74))
    assert 0.025 < welch(lsuv.accuracies, rival.accuracies).p < 0.05
    assert judge(BEST, [lsuv, rival]).verdict == "supported"
    assert judge(BEST, [lsuv, rival, make_cell("msra", "relu", around(91.74))]).verdict == "undecided"


def test_effects_by_hand() -> None:
    best = [make_cell(init, "relu", around(mean)) for init, mean in (("lsuv", 92), ("xavier", 91), ("msra", 91.5))]
    smallest = welch(around(92), around(91.5))
    assert judge(BEST, best).effect == Effect("LSUV × ReLU − MSRA × ReLU", smallest.value, smallest.interval)
    assert smallest.value == pytest.approx(0.5)
    single = judge(BEST, [make_cell("lsuv", "relu", (92.0,)), make_cell("xavier", "relu", (80.0,))])
    assert single.effect == Effect("LSUV × ReLU − Xavier × ReLU", 12, None)
    assert judge(BEST, [make_cell("lsuv", "relu", failed=5), best[1]]).effect is None
    share = judge(NEVER, [make_cell("lsuv", "sigmoid", failed=5)]).effect
    assert share == Effect("share of runs that converged", 0, (0, pytest.approx(100 * (1 - 0.025 ** (1 / 5)))), "%")
    assert judge(NEVER, [make_cell("lsuv", "sigmoid")]).effect is None


def test_a_claim_on_cells_that_the_table_leaves_out_is_undecided() -> None:
    cells = [make_cell("lsuv", "relu", around(92)), make_cell("xavier", "relu", around(91))]
    assert judge(BEST, cells, left_out=[Run("msra", "relu")]).reason == "not all of its cells are in this table"
    assert judge(BEST, cells, left_out=[Run("msra", "tanh")]).verdict == "supported"


def test_cells_trained_differently_decide_nothing() -> None:
    ours, other = make_cell("lsuv", "relu", around(94)), make_cell("xavier", "relu", around(90), momentum=0.5)
    assert judge(BEST, [ours, other]).reason == "its cells differ in momentum"


def test_a_recipe_made_so_that_it_trains_contradicts_nothing() -> None:
    never = Claim("id", "text", "never_converges", ({"activation": "maxout"},))
    released = {"lr": 0.001, "momentum": 0.5, "milestones": [80_000], "clip_norm": 50}
    judged = judge(never, [make_cell("msra", "maxout", around(91), **released)])
    assert (judged.verdict, "made so that it trains" in judged.reason) == ("undecided", True)
    assert judge(never, [make_cell("msra", "maxout", (91.0,))]).verdict == "contradicted"
