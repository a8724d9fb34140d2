"""What an output folder says about runs, how fast they are, and the state of a matrix, worked out by hand."""

import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from workers import ended, put

from replicate.experiment import Experiment
from replicate.live import state as state_module
from replicate.live.state import SAMPLES, CellProgress, MatrixState, Observation, Progress, RunMonitor, SpeedMeter
from replicate.store.lease import acquire, release
from replicate.store.owner import LeaseWatch, Owner
from replicate.store.run_folder import RunFolder


def test_records_and_heartbeats(experiment: Experiment, tmp_path: Path) -> None:
    runs = experiment.runs()
    one, two, *_ = (run.run_id for run in runs)
    folders = [RunFolder.of(tmp_path, run) for run in runs]
    monitor = RunMonitor(tmp_path, runs)
    assert monitor.look() == Observation({}, {})
    mine = acquire(folders[0], Owner("gpu 3", 100, iteration=10**9, test_accuracy=12.5, stage="resuming"))
    dead = acquire(folders[1], Owner("cpu", 100, start="1"))  # its process is gone
    here = Progress(100, 100, 12.5, "gpu 3", f"process {os.getpid()} on {Owner('cpu', 1).host}", stage="resuming")
    expired = LeaseWatch().look(folders[1])
    assert (expired.token, expired.expired) == (dead.token, True)
    failed, done = ended(runs[0], "error"), ended(runs[0])
    put(failed, folders[0].path)
    assert monitor.look() == Observation({one: failed}, {one: here}, 0, {two: expired})  # it is being tried again
    put(done, folders[0].path)
    release(folders[0], mine.token)
    release(folders[1], dead.token)
    folders[2].path.mkdir(parents=True)
    folders[2].result.write_text("{")
    assert monitor.look() == Observation({one: done}, {}, bad=1)
    folders[0].result.unlink()
    assert monitor.look().results == {one: done}  # a final record is read once


def test_a_speed_is_measured_over_the_last_changes() -> None:
    now = [0.0]
    meter = SpeedMeter(clock=lambda: now[0])

    def update(seconds: float, iteration: int) -> dict[str, float]:
        now[0] += seconds
        return meter.update({"a": Progress(10_000, iteration)})

    assert update(0, 10) == {}
    assert update(10, 60) == {"a": 5.0}
    assert update(5, 60) == {"a": 5.0}  # an evaluation; its cost shows at the next change
    assert update(5, 70) == {"a": 3.0}
    speeds = [update(1, 80 + 2 * number) for number in range(SAMPLES)]
    assert speeds[-1] == {"a": 2.0}
    assert meter.update({}) == {}
    assert update(1, 5) == {}  # the run has started again


def test_a_large_matrix_is_counted_once_and_not_per_run(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(dict[str, Progress]):
        keys = Mock(side_effect=lambda: {f"{number}" for number in range(1000)})

    monkeypatch.setattr(state_module, "fmean", mean := Mock(wraps=state_module.fmean))
    runs = {f"{number}": experiment.runs()[0] for number in range(1000)}
    seen = Observation({}, Counted({name: Progress(100, 50) for name in runs}))
    state = MatrixState(experiment, runs, seen, {"0": 2.0, "1": 4.0})
    assert list(state.running) == list(runs)
    assert (state.seconds_left["0"], state.seconds_left["999"]) == (25, 50 / 3)
    assert (seen.progress.keys.call_count, mean.call_count) == (1, 1)


def test_a_resumed_run_has_no_speed_before_it_trains() -> None:
    """Its first report is far from 0, which it has not reached within these seconds."""
    now = [0.0]
    meter = SpeedMeter(clock=lambda: now[0])
    speeds = []
    for now[0], iteration, stage in ((0, 0, "starting"), (5, 0, "resuming"), (6, 5000, ""), (8, 5020, "")):
        speeds.append(meter.update({"a": Progress(10_000, iteration, stage=stage)}))
    assert speeds == [{}, {}, {}, {"a": 10.0}]


def test_cells_and_totals(experiment: Experiment) -> None:
    cells = [("lsuv", "tanh"), ("lsuv", "maxout"), ("msra", "tanh")]
    listed = sorted(experiment.runs(), key=lambda run: cells.index((run.init, run.activation)))
    runs = {run.run_id: run for run in listed}
    names = list(runs)
    statuses = ("converged", "converged", "not_converged", "diverged", "error", "error", "error")
    results = {name: ended(runs[name], status) for name, status in zip(names, statuses, strict=False)}
    progress = {
        names[0]: Progress(100, 100, 90.0),  # the heartbeat is older than the record
        names[5]: Progress(100, 25, 11.0, "gpu 0"),
        names[6]: Progress(100, 50, None, "gpu 1", elsewhere=True),  # tried again after its error
    }
    state = MatrixState(experiment, runs, Observation({**results, names[7]: None}, progress), {names[5]: 7.0})
    assert state.cells == {
        ("lsuv", "tanh"): CellProgress(3, (0, 1), (90.0, 90.0), 1, 0, 0),
        ("lsuv", "maxout"): CellProgress(3, (), (), 0, 1, 1, here=(0.25,)),
        ("msra", "tanh"): CellProgress(3, (), (), 0, 0, 1, elsewhere=(0.5,)),
    }
    total = state.total
    assert (total.expected, total.finished, total.errors, total.running, total.waiting) == (9, 4, 2, 2, 1)
    # The four whole runs took 50 s for 100 iterations, so the mean speed is 3. 75 and 50 iterations are left of the
    # running runs, and 100 of the one that waits, at 7 + 3 iterations per second.
    assert state.seconds_left == pytest.approx({names[5]: 75 / 7, names[6]: 50 / 3})
    assert state.total_seconds_left == 22.5


@pytest.mark.parametrize(
    ("iterations", "speeds", "each", "total"),
    [
        ([60, 20], [2.0], [20.0, 40.0], 40.0),  # the other is as fast; the slowest run decides
        ([90, None, None], [5.0], [2.0], 42.0),  # 10 + 100 + 100 iterations
        ([10], [], [], None),  # no speed is known
    ],
)
def test_time_left(
    experiment: Experiment, iterations: list[int | None], speeds: list[float], each: list[float], total: float | None
) -> None:
    """The first runs have done these iterations at these speeds; the last one has diverged, and is not typical."""
    *first, last = experiment.runs()[: len(iterations) + 1]
    runs = {run.run_id: run for run in (*first, last)}
    progress = {name: Progress(100, done) for name, done in zip(runs, iterations, strict=False) if done is not None}
    seen = Observation({last.run_id: replace(ended(last, "diverged"), iteration=3)}, progress)
    state = MatrixState(experiment, runs, seen, dict(zip(runs, speeds, strict=False)))
    assert list(state.seconds_left.values()) == each
    assert state.total_seconds_left == total
    assert state.images_per_second == (32 * sum(speeds) or None)
