"""The files of a run, and the records of an output folder."""

from dataclasses import replace
from pathlib import Path

from workers import put, record

from replicate.options import Options
from replicate.run import Run
from replicate.store.run_folder import RunFolder, collect, count_others, recorded

RUN = Run("lsuv", "relu", 3, dataset="synthetic", milestones=[40])


def test_names_and_reads_the_files_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder.of(tmp_path, RUN)
    assert folder.path == tmp_path / "runs" / RUN.run_id
    assert (folder.result.name, folder.checkpoint.name, folder.log.name) == ("result.json", "checkpoint.pt", "log.txt")
    assert folder.record() is None
    result = record(RUN, Options(tmp_path))
    put(result, folder.path)
    assert folder.record() == result
    folder.result.write_text("{")
    assert folder.record() is None


def test_collecting_keeps_apart_what_was_asked_for(tmp_path: Path) -> None:
    put(record(RUN, Options(tmp_path)), tmp_path / "runs" / RUN.run_id)
    other, broken, missing = (replace(RUN, seed=seed) for seed in (4, 5, 6))
    put(record(other, Options(tmp_path)), tmp_path / "runs" / other.run_id)
    (tmp_path / "runs" / broken.run_id).mkdir()
    (tmp_path / "runs" / broken.run_id / "result.json").write_text("{")
    found = collect(tmp_path, [RUN, broken, missing])
    assert list(found.results) == [RUN.run_id]
    assert list(found.bad) == [tmp_path / "runs" / broken.run_id / "result.json"]
    assert found.others == 1
    assert collect(tmp_path / "nowhere", [RUN]).results == {}
    assert [folder.path.name for folder in recorded(tmp_path)] == sorted((RUN.run_id, other.run_id, broken.run_id))
    assert count_others(tmp_path, {RUN.run_id}) == 2
