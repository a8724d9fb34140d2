"""Records: written whole or not at all, read strictly."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers import record

from replicate.options import Options
from replicate.results import BadRecordError, collect, read, write_atomically
from replicate.run import Run

RUN = Run("lsuv", "relu", 3, dataset="synthetic", milestones=[40])
RECORDS = Path(__file__).parent / "records"
(WHOLE,) = RECORDS.glob("schema-1/*/result.json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record(RUN, Options(tmp_path)).write(tmp_path / "runs" / RUN.run_id)


def test_a_record_reads_back_as_it_was(path: Path, tmp_path: Path) -> None:
    result = read(path)
    assert result.write(tmp_path / "copy" / RUN.run_id) == tmp_path / "copy" / RUN.run_id / "result.json"
    assert read(tmp_path / "copy" / RUN.run_id / "result.json") == result
    assert result.run == RUN
    content = json.loads(path.read_text())
    assert (content["schema"], content["run_id"], content["run"]["milestones"]) == (1, RUN.run_id, [40])


def test_a_record_of_each_schema_stays_readable() -> None:
    result = read(WHOLE)
    assert (result.status, result.test_accuracy) == ("not_converged", 10.0)
    assert (result.history, result.passing) == ([], None)  # fields that came later


def test_no_number_that_json_does_not_know_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(record(RUN, Options(tmp_path)), train_loss=float("nan")).write(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_write_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "something else")
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "not a result of schema 1"),
        ({"init": None}, "init is None"),
        ({"init": [1]}, "init is not a list of layers"),
        ({"seconds": "x"}, "seconds is 'x'"),
        ({"test_accuracy": float("nan")}, "NaN is no number of a record"),
        ({"test_accuracy": 101}, "test_accuracy is 101"),
        ({"iteration": True}, "iteration is True"),
        ({"status": "great"}, "unknown status 'great'"),
        ({"history": {}}, "history is {}"),
        ({"history": [{"attempt": 1}]}, "history is not a list of attempts"),
        ({"passing": "bad luck"}, "unknown passing 'bad luck'"),
        ({"extra": 1}, "missing or unknown key 'extra'"),
        ({"seconds": 10**300}, "seconds is out of range"),
        ({"device": "CPU\x1b[2J"}, "device is not a line of text"),
        ({"data_label": "two\nlines"}, "data_label is not a line of text"),
        ({"commit": "\ud800"}, "commit is not a line of text"),
        ({"fingerprint": "f" * 10_000}, "fingerprint is not a line of text"),
        ({"init": [{"layer": "\x1b]0;", "piece": 0, "variance": 1.0}]}, "init is not a list of layers"),
        ({"init": [{"layer": "conv1", "piece": 0, "variance": "1"}]}, "init is not a list of layers"),
        ({"weights_sha256": 1}, "weights_sha256 is 1"),
        ({"environment": []}, r"environment is \[\]"),
        ({"test_accuracy": None}, "a finished run without a test accuracy"),
        ({"run_id": "lsuv-relu-s3-00000000"}, "holds run lsuv-relu-s3-00000000, whose settings give lsuv-relu-s3-"),
    ],
)
def test_what_does_not_hold_together_is_refused(path: Path, change: dict[str, object], message: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadRecordError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_setting_edited_by_hand_is_noticed(path: Path) -> None:
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.02'))
    with pytest.raises(BadRecordError, match="holds run"):
        read(path)
    path.write_text(path.read_text().replace('"lr": 0.02', '"lr": -1'))
    with pytest.raises(BadRecordError, match=r"not a whole result: lr = -1\.0 is out of range"):
        read(path)


def test_a_record_cut_off_anywhere_is_refused(path: Path) -> None:
    text = path.read_text()
    for end in range(0, len(text) - 2, 37):
        path.write_text(text[:end])
        with pytest.raises(BadRecordError):
            read(path)


def test_a_file_is_written_by_way_of_the_scratch_folder_or_not_at_all(path: Path, tmp_path: Path) -> None:
    before, scratch = path.read_text(), tmp_path / "scratch"
    with pytest.raises(FileNotFoundError):
        write_atomically(path, "from one that has lost the right to write", scratch)
    assert path.read_text() == before
    scratch.mkdir()
    write_atomically(path, b"bytes", scratch)
    assert path.read_bytes() == b"bytes"
    assert list(scratch.iterdir()) == []


def test_collecting_keeps_apart_what_was_asked_for(path: Path, tmp_path: Path) -> None:
    other, broken, missing = (replace(RUN, seed=seed) for seed in (4, 5, 6))
    record(other, Options(tmp_path)).write(tmp_path / "runs" / other.run_id)
    (tmp_path / "runs" / broken.run_id).mkdir()
    (tmp_path / "runs" / broken.run_id / "result.json").write_text("{")
    found = collect(tmp_path, [RUN, broken, missing])
    assert list(found.results) == [RUN.run_id]
    assert list(found.bad) == [tmp_path / "runs" / broken.run_id / "result.json"]
    assert found.others == 1
    assert collect(tmp_path / "nowhere", [RUN]).results == {}


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples: to make and remove folders takes longer than to read."""
    folder = tmp_path_factory.mktemp("mutants") / WHOLE.parent.name
    folder.mkdir()
    return folder / "result.json"


@given(data=st.data())
@settings(max_examples=2000, deadline=None)
def test_whatever_bytes_stand_there_the_reader_raises_its_own_error_or_reads(mutant: Path, data: st.DataObject) -> None:
    original = WHOLE.read_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 40)))
    mutant.write_bytes(original[:start] + data.draw(st.binary(max_size=8)) + original[end:])
    try:
        result = read(mutant)
    except BadRecordError:
        return
    assert result.run.run_id == mutant.parent.name  # no setting of the run was touched
    assert result.write(mutant.parent) == mutant  # and what was read can be written


def test_json_nested_without_end_is_refused(path: Path) -> None:
    path.write_text("[" * 200_000)
    with pytest.raises(BadRecordError):
        read(path)
