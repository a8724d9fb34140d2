"""The records of an output folder."""

from dataclasses import replace
from pathlib import Path

from workers import put, record

from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import RunFolder, collect, recorded


def test_collecting_separates_what_was_asked_for(tmp_path: Path) -> None:
    run = Run("lsuv", "relu", dataset="synthetic")
    other, broken, missing = (replace(run, seed=seed) for seed in (4, 5, 6))
    results = [record(one, Options(tmp_path)) for one in (run, other, broken)]
    for result in results:
        put(result, RunFolder.of(tmp_path, result.run).path)
    bad = RunFolder.of(tmp_path, broken)
    bad.result.write_text("{")
    found = collect(tmp_path, [run, broken, missing])
    assert (found.results, list(found.bad), found.others) == ({run.run_id: results[0]}, [bad.result], 1)
    assert [RunFolder.of(tmp_path, one).record() for one in (run, broken, missing)] == [results[0], None, None]
    assert collect(tmp_path / "nowhere", [run]).results == {}
    assert [folder.run_id for folder in recorded(tmp_path)] == sorted(result.run.run_id for result in results)
