from dataclasses import replace

import pytest
from made_up_records import make_cell, make_result

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Tally, cells
from replicate.run import Run


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
def test_nc_if_more_than_half_of_the_finished_runs_failed(converged: int, failed: int, errors: int, nc: bool) -> None:
    cell = make_cell("lsuv", "relu", [90.0] * converged, failed, errors)
    assert (cell.nc, cell.finished, cell.missing) == (nc, converged + failed, 5 - converged - failed - errors)
    assert cell.n == (cell.finished if nc else converged)
    assert (cell.mean is None) == (nc or not converged)


def test_a_cell_that_mixes_settings_is_refused_but_cells_may_differ(small: Experiment) -> None:
    runs = small.with_settings({"width": [0.25, 0.5]}).runs()
    with pytest.raises(UsageError, match=r"LSUV × maxout differ in width \(0\.25 and 0\.5\).*--only or --set"):
        cells(runs, {}, "init", "activation")
    first, *others = small.runs()
    assert len(cells([first, *others, replace(first, activation="tanh", lr=0.5)], {}, "init", "activation")) == 4
