"""The state of a matrix, by numbers worked out by hand."""

from live_records import ended

from replicate.experiment import Experiment
from replicate.live.board import CellProgress, Progress, board


def test_cells_and_totals(experiment: Experiment) -> None:
    cells = (("lsuv", "tanh"), ("lsuv", "maxout"), ("msra", "tanh"))
    runs = [run for cell in cells for run in experiment.runs() if (run.init, run.activation) == cell]
    names = [run.run_id for run in runs]
    results = {
        names[0]: ended(runs[0], accuracy=90.0),
        names[1]: ended(runs[1], accuracy=92.0),
        names[2]: ended(runs[2], "not_converged", 10.0),
        names[3]: ended(runs[3], "diverged"),
        names[4]: ended(runs[4], "error"),
        names[6]: ended(runs[6], "error"),
        names[7]: None,
    }
    progress = {
        names[0]: Progress(100, 90.0),  # the heartbeat is older than the record
        names[5]: Progress(25, 11.0, "gpu 0"),
        names[6]: Progress(50, None, "gpu 1", elsewhere=True),  # tried again after its error
    }
    now = board(runs, "init", "activation", results, progress, {})
    assert (now.rows, now.columns) == (("lsuv", "msra"), ("tanh", "maxout"))
    assert tuple(now.cells) == cells
    tanh, maxout, msra = now.cells.values()
    assert tanh == CellProgress(3, (0, 1), (90.0, 92.0), 1, 0, 0, here=(), elsewhere=())
    assert (tanh.finished, tanh.failed, tanh.nc, tanh.mean, tanh.waiting) == (3, 1, False, 91.0, 0)
    assert maxout == CellProgress(3, (), (), 0, 1, 1, here=(0.25,), elsewhere=())
    assert (maxout.finished, maxout.nc, maxout.mean, maxout.waiting) == (1, True, None, 0)
    assert msra == CellProgress(3, (), (), 0, 0, 1, here=(), elsewhere=(0.5,))
    assert (msra.finished, msra.nc, msra.running, msra.waiting) == (0, False, 1, 1)
    whole = now.whole
    assert (whole.expected, whole.finished, whole.errors, whole.running, whole.waiting) == (9, 4, 2, 2, 1)
    # tanh takes 50 s for 100 iterations, maxout is judged by tanh: 37.5 and 25 s are left, then 50 s from the 25th on
    assert [(one.run, one.left) for one in now.under_way] == [(runs[5], 37.5), (runs[6], 25.0)]
    assert now.left == 75.0
    assert not now.over


def test_it_is_over_when_nothing_runs_or_waits(experiment: Experiment) -> None:
    runs = experiment.runs()[:2]
    names = [run.run_id for run in runs]
    done = {names[0]: ended(runs[0]), names[1]: ended(runs[1], "error")}
    assert board(runs, "init", "activation", done, {}, {}).over
    assert not board(runs, "init", "activation", done, {names[1]: Progress()}, {}).over
    assert not board(runs, "init", "activation", {names[0]: done[names[0]]}, {}, {}).over
    assert board(runs, "init", "activation", {names[0]: None, names[1]: None}, {}, {}).whole.errors == 2
