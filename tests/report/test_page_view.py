from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.experiment import Experiment
from replicate.report.claims import Claim, Effect, Judgement
from replicate.report.page_view import Scale, accuracy_scale, cell_views, claim_views, largest_difference
from replicate.report.reproduce import Source
from replicate.report.statistics import Interval
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

SOURCE = Source(Path("experiments/small.yaml"))


@pytest.fixture
def table(small: Experiment, small_results: list[Result], make_records: Callable[..., Records]) -> Table:
    return assemble(small, small.runs(), make_records(small_results))


def test_a_scale_of_one_value_stands() -> None:
    assert Scale(10, 20).at(12.5) == 25
    assert Scale(5, 5).at(5) == 50


def test_cells(table: Table) -> None:
    (maxout, relu), (dash, failed) = cell_views(table, SOURCE)
    assert (maxout.text, maxout.counts, maxout.paper) == ("94.0 ± 0.2", "(n=3)", "93.94")
    # all accuracies and published numbers lie from 91.93 (no own number there: it is n/c) or 92.1 to 94.2
    scale = accuracy_scale(table.entries.values())
    assert scale == Scale(91.93, 94.2)
    assert maxout.strip is not None
    assert maxout.strip.dots == tuple(round(100 * (value - 91.93) / 2.27, 2) for value in (93.8, 94.0, 94.2))
    assert maxout.strip.interval == (pytest.approx(69.30, abs=0.01), 100)  # 94 ± 0.497, cut off above
    assert maxout.strip.paper == round(100 * 2.01 / 2.27, 2)
    assert [result.run.seed for result in maxout.runs] == [0, 1, 2]
    # differences of 0.06 and 0.09 points: the full colour is for half a point or more
    assert largest_difference(table.entries.values()) == 0.5
    assert maxout.shade == pytest.approx(0.12)
    assert relu.shade == pytest.approx(0.18)
    assert (dash.text, dash.command, dash.runs, dash.strip) == ("–", "", (), None)
    assert (failed.text, failed.counts, failed.strip, failed.shade) == ("n/c", "(1/1) … 1/3", None, None)
    assert failed.command.endswith("--only init=orthonormal_msra activation=relu")


def test_nothing_has_no_scale(small: Experiment, make_records: Callable[..., Records]) -> None:
    table = assemble(small, small.runs(), make_records([]))
    assert accuracy_scale(table.entries.values()) is None
    assert largest_difference(table.entries.values()) == 0
    assert cell_views(table, SOURCE)[0][0].text == "… 0/3"


def test_effects_of_a_unit_share_a_scale() -> None:
    claim = Claim("a", "A", "best", ({"init": "lsuv"},), {})
    said = Judgement(claim, "undecided", "")
    effects = [
        Effect("x", 1.0, Interval(-1.0, 4.0)),
        Effect("y", -2.0, None),
        Effect("z", 25.0, Interval(0.0, 50.0), "%"),
    ]
    first, second, share, none = claim_views([*(replace(said, effect=effect) for effect in effects), said])
    assert (first.zero, first.value, first.ends) == (50, 62.5, (37.5, 100))  # from -4 to 4
    assert (second.value, second.ends) == (25, None)
    assert (share.zero, share.value, share.ends) == (0, 25, (0, 50))
    assert (none.value, none.effect) == (None, "")
