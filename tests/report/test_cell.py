from dataclasses import replace

import pytest
from made_up_records import make_cell, make_result

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Tally, cells
from replicate.run import Run
from replicate.store.result import Result


def test_mean_and_standard_deviation_by_hand() -> None:
    cell = make_cell("lsuv", "relu", (90.0, 92.0, 94.0))
    assert (cell.mean, cell.sd) == (92, 2)  # ((-2)² + 0 + 2²) / (3 - 1) = 4
    one = make_cell("lsuv", "relu", (90.0,))
    assert (one.mean, one.sd) == (90, None)


def test_a_crash_without_a_record_is_an_error() -> None:
    run = Run("lsuv", "relu")
    tally = Tally.of(4, [make_result(run, 90.0), make_result(run, None, "error"), None])
    assert (tally.converged, tally.errors, tally.missing) == (1, 2, 1)


@pytest.mark.parametrize(
    ("converged", "failed", "errors", "nc"),
    [
        (0, 0, 0, False),  # nothing has finished
        (2, 2, 0, False),  # half of them is not more than half
        (2, 3, 0, True),
        (1, 0, 4, False),  # a crash is not a failure to converge
    ],
)
def test_a_cell_is_nc_if_more_than_half_of_its_finished_runs_failed(
    converged: int, failed: int, errors: int, nc: bool
) -> None:
    cell = make_cell("lsuv", "relu", [90.0] * converged, failed, errors)
    assert (cell.nc, cell.finished, cell.missing) == (nc, converged + failed, 5 - converged - failed - errors)
    assert cell.n == (cell.finished if nc else converged)
    assert (cell.mean is None) == (nc or not converged)


def test_runs_are_grouped_by_all_but_their_seed(small: Experiment, small_results: list[Result]) -> None:
    table = cells(small.runs(), {result.run.run_id: result for result in small_results}, "init", "activation")
    assert [(cell.name, cell.seeds, cell.accuracies) for cell in table] == [
        ("LSUV × maxout", (0, 1, 2), (93.8, 94.0, 94.2)),
        ("LSUV × ReLU", (0, 1), (92.1, 92.3)),
        ("OrthoNorm-MSRA scaled × ReLU", (), ()),
    ]
    assert [(cell.not_converged, cell.diverged, cell.missing) for cell in table] == [(0, 0, 0), (1, 0, 0), (0, 1, 2)]


def test_a_cell_that_mixes_settings_is_refused_but_cells_may_differ(small: Experiment) -> None:
    runs = small.with_settings({"width": [0.25, 0.5]}).runs()
    with pytest.raises(UsageError, match=r"LSUV × maxout differ in width \(0\.25 and 0\.5\).*--only or --set"):
        cells(runs, {}, "init", "activation")
    first, *others = small.runs()
    assert len(cells([first, *others, replace(first, activation="tanh", lr=0.5)], {}, "init", "activation")) == 4
