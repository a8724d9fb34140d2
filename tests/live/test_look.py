"""What a folder tells."""

import json
import os
from pathlib import Path

import pytest
from live_records import ended
from workers import put

from replicate.experiment import Experiment
from replicate.live.board import Progress
from replicate.live.look import Looker, Seen
from replicate.store.lease import acquire, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder


def test_records_and_heartbeats(experiment: Experiment, tmp_path: Path) -> None:
    runs = experiment.runs()
    folders = [tmp_path / "runs" / run.run_id for run in runs]
    looker = Looker(tmp_path, runs)
    assert looker.look() == Seen({}, {}, 0)
    mine = acquire(RunFolder(folders[0]), Owner("gpu 3", 100, iteration=40, test_accuracy=12.5))
    assert mine is not None
    dead = acquire(RunFolder(folders[1]), Owner("cpu", 100, start="1"))  # of a process that is gone
    assert dead is not None
    expired = {runs[1].run_id: dead.token}
    holder = f"process {os.getpid()} on {Owner('cpu', 1).host}"
    assert looker.look() == Seen({}, {runs[0].run_id: Progress(40, 12.5, "gpu 3", holder)}, 0, expired)
    failed = ended(runs[0], "error")
    put(failed, folders[0])
    assert looker.look().results == {runs[0].run_id: failed}
    assert runs[0].run_id in looker.look().progress  # it is being tried again
    done = ended(runs[0])
    put(done, folders[0])
    assert looker.look().results == {runs[0].run_id: done}
    release(RunFolder(folders[0]), mine.token)
    assert looker.look() == Seen({runs[0].run_id: done}, {}, 0, expired)
    (folders[0] / "result.json").unlink()
    assert looker.look() == Seen({}, {}, 0, expired)


def test_a_record_is_read_once(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment.runs()[0]
    path = put(ended(run), tmp_path / "runs" / run.run_id)
    looker = Looker(tmp_path, [run])
    assert run.run_id in looker.look().results
    monkeypatch.setattr("replicate.live.look.read_result", lambda path: pytest.fail("read again"))
    assert run.run_id in looker.look().results
    monkeypatch.undo()
    path.write_text("{")
    assert looker.look() == Seen({}, {}, 1)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"iteration": 10**9}, 100), ({"iteration": -5}, None), ({"test_accuracy": 1e300}, None), ({"pid": "1"}, None)],
)
def test_a_heartbeat_that_holds_anything_is_kept_within_bounds(
    experiment: Experiment, tmp_path: Path, change: dict[str, object], told: int | None
) -> None:
    run = experiment.runs()[0]
    lease = acquire(RunFolder(tmp_path / "runs" / run.run_id), Owner("cpu", 100, iteration=7))
    assert lease is not None
    path = lease.staging_dir / "owner.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    progress = Looker(tmp_path, [run]).look().progress
    assert [one.iteration for one in progress.values()] == ([] if told is None else [told])
