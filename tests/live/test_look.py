"""What a folder tells."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from live_records import ended

from replicate.experiment import Experiment
from replicate.live.board import Progress
from replicate.live.look import Looker, Seen
from replicate.matrix.claims import drop, take
from replicate.matrix.owner import Owner


def test_records_and_heartbeats(experiment: Experiment, tmp_path: Path) -> None:
    runs = experiment.runs()
    folders = [tmp_path / "runs" / run.run_id for run in runs]
    looker = Looker(tmp_path, runs)
    assert looker.look() == Seen({}, {}, 0)
    mine = take(folders[0], Owner("gpu 3", 100, iteration=40, test_accuracy=12.5))
    assert mine is not None
    assert take(folders[1], Owner("cpu", 100, start="1")) is not None  # of a process that is gone
    holder = f"process {os.getpid()} on {Owner('cpu', 1).host}"
    assert looker.look() == Seen({}, {runs[0].run_id: Progress(40, 12.5, "gpu 3", holder)}, 0)
    failed = ended(runs[0], "error")
    failed.write(folders[0])
    assert looker.look().results == {runs[0].run_id: failed}
    assert runs[0].run_id in looker.look().progress  # it is being tried again
    done = ended(runs[0])
    done.write(folders[0])
    assert looker.look().results == {runs[0].run_id: done}
    drop(folders[0], mine.token)
    assert looker.look() == Seen({runs[0].run_id: done}, {}, 0)
    (folders[0] / "result.json").unlink()
    assert looker.look() == Seen({}, {}, 0)


def test_a_record_is_read_once(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment.runs()[0]
    path = ended(run).write(tmp_path / "runs" / run.run_id)
    looker = Looker(tmp_path, [run])
    assert run.run_id in looker.look().results
    monkeypatch.setattr("replicate.live.look.read", lambda path: pytest.fail("read again"))
    assert run.run_id in looker.look().results
    monkeypatch.undo()
    path.write_text("{")
    assert looker.look() == Seen({}, {}, 1)


@pytest.mark.parametrize(
    ("iteration", "accuracy", "told"),
    [(-5, 50.0, (0, 50.0)), (10**300, float("nan"), (100, None)), (7, 1e300, (7, None)), (7, -1.0, (7, None))],
)
def test_a_heartbeat_that_holds_anything_is_kept_within_bounds(
    experiment: Experiment, tmp_path: Path, iteration: int, accuracy: float, told: tuple[int, float | None]
) -> None:
    run = experiment.runs()[0]
    owner = replace(Owner("cpu", 100), iteration=iteration, test_accuracy=accuracy)
    assert take(tmp_path / "runs" / run.run_id, owner) is not None
    (progress,) = Looker(tmp_path, [run]).look().progress.values()
    assert (progress.iteration, progress.accuracy) == told
