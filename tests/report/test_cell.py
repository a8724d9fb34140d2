from collections.abc import Callable
from dataclasses import replace

import pytest

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Cell, Tally, cells
from replicate.run import Run
from replicate.store.result import Result


def test_mean_and_standard_deviation_by_hand(make_cell: Callable[..., Cell]) -> None:
    cell = make_cell("lsuv", "relu", (90.0, 92.0, 94.0))
    assert (cell.mean, cell.sd) == (92, 2)  # ((-2)² + 0 + 2²) / (3 - 1) = 4
    assert cell.name == "LSUV × ReLU"
    one = make_cell("lsuv", "relu", (90.0,))
    assert (one.mean, one.sd) == (90, None)


def test_a_crash_without_a_record_is_an_error(make_result: Callable[..., Result]) -> None:
    run = Run("lsuv", "relu")
    tally = Tally.of(4, [make_result(run, 90.0), make_result(run, None, "error"), None])
    assert (tally.converged, tally.errors, tally.missing) == (1, 2, 1)


@pytest.mark.parametrize(
    ("converged", "not_converged", "diverged", "errors", "nc"),
    [
        (0, 0, 0, 0, False),  # nothing has finished: the cell says nothing yet
        (2, 1, 1, 0, False),  # half of them is not more than half
        (2, 2, 1, 0, True),
        (0, 0, 1, 0, True),
        (1, 0, 0, 4, False),  # a crash says nothing on convergence
    ],
)
def test_a_cell_is_nc_if_more_than_half_of_its_finished_runs_failed(
    make_cell: Callable[..., Cell], converged: int, not_converged: int, diverged: int, errors: int, nc: bool
) -> None:
    failures = {"not_converged": not_converged, "diverged": diverged, "errors": errors}
    cell = make_cell("lsuv", "relu", [90.0] * converged, **failures)
    assert cell.nc is nc
    assert cell.finished == converged + not_converged + diverged
    assert cell.missing == 5 - cell.finished - errors
    assert cell.n == (cell.finished if nc else converged)
    assert (cell.mean is None) == (nc or not converged)


def test_runs_are_grouped_by_all_but_their_seed(small: Experiment, small_results: list[Result]) -> None:
    table = cells(small.runs(), {r.run.run_id: r for r in small_results}, "init", "activation")
    assert [(cell.row, cell.column) for cell in table] == [
        ("lsuv", "maxout"),
        ("lsuv", "relu"),
        ("orthonormal_msra", "relu"),
    ]
    assert [cell.accuracies for cell in table] == [(93.8, 94.0, 94.2), (92.1, 92.3), ()]
    assert [cell.seeds for cell in table] == [(0, 1, 2), (0, 1), ()]
    assert [cell.not_converged for cell in table] == [0, 1, 0]
    assert [cell.diverged for cell in table] == [0, 0, 1]
    assert [cell.missing for cell in table] == [0, 0, 2]


def test_a_cell_that_mixes_settings_is_refused(small: Experiment) -> None:
    runs = small.with_settings({"width": [0.25, 0.5]}).runs()
    with pytest.raises(UsageError, match=r"LSUV × maxout differ in width \(0\.25 and 0\.5\).*--only or --set"):
        cells(runs, {}, "init", "activation")


def test_cells_may_differ_from_each_other(small: Experiment) -> None:
    first, *others = small.runs()
    odd = replace(first, activation="tanh", lr=0.5)
    assert len(cells([first, *others, odd], {}, "init", "activation")) == 4
