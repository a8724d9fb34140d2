"""Records: written whole or not at all, read strictly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers import put, record

from replicate.options import Options
from replicate.run import Run
from replicate.store.result import BadRecordError, read_result

RUN = Run("lsuv", "relu", 3, dataset="synthetic", milestones=[40])
RECORDS = Path(__file__).parents[1] / "records"
(WHOLE,) = RECORDS.glob("schema-1/*/result.json")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(record(RUN, Options(tmp_path)), tmp_path / "runs" / RUN.run_id)


def test_a_record_reads_back_as_it_was(path: Path, tmp_path: Path) -> None:
    result = read_result(path)
    assert read_result(put(result, tmp_path / "copy" / RUN.run_id)) == result
    assert result.run == RUN
    content = json.loads(path.read_text())
    assert (content["schema"], content["run_id"], content["run"]["milestones"]) == (1, RUN.run_id, [40])


def test_a_record_of_each_schema_stays_readable() -> None:
    result = read_result(WHOLE)
    assert (result.status, result.test_accuracy) == ("not_converged", 10.0)
    assert (result.history, result.passing) == ([], None)  # fields that came later


def test_no_number_that_json_does_not_know_is_written(tmp_path: Path) -> None:
    for odd in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="train_loss"):
            replace(record(RUN, Options(tmp_path)), train_loss=odd)
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(record(RUN, Options(tmp_path)), options={"threads": float("nan")}).to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "not a result of schema 1"),
        ({"init": None}, "init must be a list, not None"),
        ({"init": [1]}, "init.0 must be a mapping of `key: value` lines, not 1"),
        ({"seconds": "x"}, "seconds must be a number, not 'x'"),
        ({"test_accuracy": float("nan")}, "NaN is not a number of JSON"),
        ({"test_accuracy": 101}, "test_accuracy = 101 is out of range; give at most 100"),
        ({"iteration": True}, "iteration must be a whole number, not True"),
        ({"status": "great"}, "unknown status 'great'"),
        ({"history": {}}, "history must be a list, not {}"),
        ({"history": [{"attempt": 1}]}, "history.0.when is missing"),
        ({"passing": "bad luck"}, "passing is 'bad luck': choose from: killed, out of memory, CUDA error, disk"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"seconds": 10**300}, "seconds = 10.*0 is out of range"),
        ({"device": "CPU\x1b[2J"}, r"device is .*: it is not a line of text"),
        ({"data_label": "two\nlines"}, r"data_label is .*: it is not a line of text"),
        ({"commit": "\ud800"}, r"commit is .*: it is not a line of text"),
        ({"fingerprint": "f" * 10_000}, r"fingerprint is .*: it is not a line of text"),
        ({"init": [{"layer": "\x1b]0;", "piece": 0, "variance": 1.0}]}, "init.0.layer is .*: it is not a line"),
        ({"init": [{"layer": "conv1", "piece": 0, "variance": "1"}]}, "init.0.variance must be a number, not '1'"),
        ({"weights_sha256": 1}, "weights_sha256 must be text, not 1"),
        ({"environment": []}, r"environment must be a mapping of `key: value` lines, not \[\]"),
        ({"test_accuracy": None}, "a finished run without a test accuracy"),
        ({"run_id": "lsuv-relu-s3-00000000"}, "holds run lsuv-relu-s3-00000000, whose settings give lsuv-relu-s3-"),
    ],
)
def test_what_does_not_hold_together_is_refused(path: Path, change: dict[str, object], message: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadRecordError, match=message) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


def test_a_setting_edited_by_hand_is_noticed(path: Path) -> None:
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.02'))
    with pytest.raises(BadRecordError, match="holds run"):
        read_result(path)
    path.write_text(path.read_text().replace('"lr": 0.02', '"lr": -1'))
    with pytest.raises(BadRecordError, match="not a whole result: lr = -1 is out of range"):
        read_result(path)


def test_a_record_cut_off_anywhere_is_refused(path: Path) -> None:
    text = path.read_text()
    for end in range(0, len(text) - 2, 37):
        path.write_text(text[:end])
        with pytest.raises(BadRecordError):
            read_result(path)


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
        result = read_result(mutant)
    except BadRecordError:
        return
    assert result.run.run_id == mutant.parent.name  # no setting of the run was touched
    assert put(result, mutant.parent) == mutant  # and what was read can be written


def test_json_nested_without_end_is_refused(path: Path) -> None:
    path.write_text("[" * 200_000)
    with pytest.raises(BadRecordError):
        read_result(path)
