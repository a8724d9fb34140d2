"""The sample, and the folder of the reruns."""

from dataclasses import replace
from pathlib import Path

import pytest
from workers import SYNTHETIC, record

from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import Records
from replicate.verify.sample import check_data, clear, draw, rerun_folder

RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(20)]


def records(*runs: Run, status: str = "converged") -> Records:
    return Records({run.run_id: replace(record(run, Options(Path("out"))), status=status) for run in runs}, {}, 0)


def test_the_draw_is_seeded_nested_and_free_of_the_others() -> None:
    three = list(draw(records(*RUNS), 3, 0, Path("out")))
    assert list(draw(records(*RUNS), 3, 0, Path("out"))) == three
    assert list(draw(records(*RUNS), 5, 0, Path("out")))[:3] == three
    assert list(draw(records(*reversed(RUNS)), 3, 0, Path("out"))) == three
    assert list(draw(records(*(run for run in RUNS if run.run_id in three)), 3, 0, Path("out"))) == three
    assert len({tuple(draw(records(*RUNS), 3, seed, Path("out"))) for seed in range(5)}) == 5
    assert set(draw(records(*RUNS), None, 0, Path("out"))) == {run.run_id for run in RUNS}


def test_runs_that_ended_in_an_error_are_not_drawn() -> None:
    with pytest.raises(UsageError, match="out holds no finished run to verify; see `replicate status FILE --out out`"):
        draw(records(*RUNS, status="error"), 3, 0, Path("out"))


def test_other_data_is_refused() -> None:
    recorded = dict(records(RUNS[0]).results)
    check_data(recorded, {"synthetic": SYNTHETIC})
    with pytest.raises(UsageError, match=f"fingerprint {SYNTHETIC}, but synthetic here has {'0' * 64}"):
        check_data(recorded, {"synthetic": "0" * 64})


def test_reruns_are_removed_or_kept_apart(tmp_path: Path) -> None:
    folder = rerun_folder(tmp_path)
    for attempt in ("first", "second"):
        (folder / "runs" / attempt).mkdir(parents=True)
        clear(folder, keep=True)
        assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["last", f"last/{attempt}"]
    (folder / "runs").mkdir()
    clear(folder, keep=False)
    assert not folder.exists()
