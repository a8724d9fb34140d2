"""Records: written whole or not at all, read strictly."""

import contextlib
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
(SCHEMA_1,) = (Path(__file__).parents[1] / "records").glob("schema-1/*/result.json")


def test_a_record_of_each_schema_stays_readable() -> None:
    result = read_result(SCHEMA_1)
    assert (result.status, result.test_accuracy) == ("not_converged", 10.0)
    later = (result.history, result.passing, result.url, result.run.input_scale)
    assert later == ([], None, None, 1.0)


def test_no_number_that_json_does_not_know_is_written(tmp_path: Path) -> None:
    result = replace(record(RUN, Options(tmp_path)), options={"threads": float("inf")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("[]", "not a whole result"),
        ("[" * 200_000, "not a whole result"),
        ({"schema": 2}, "not a whole result: its schema is 2, not 1"),
        ({"init": [{"layer": "\x1b]0;", "piece": 0, "variance": 1.0}]}, "init.0.layer is .*: it is not a line"),
        ({"test_accuracy": float("nan")}, "NaN is not a number of JSON"),
        ({"test_accuracy": None}, "a finished run without a test accuracy"),
        ({"iteration": True}, "iteration must be a whole number, not True"),
        ({"passing": "bad luck"}, "unknown kind of failure 'bad luck'; choose from: killed, out of memory, CUDA error"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"checksum": "0" * 64}, "its checksum is wrong, so it was damaged or edited"),
        ({"environment": {"host": {"\ud800": 1}}}, "a key is not Unicode text"),
        ({"seconds": 10**300}, "seconds = 10.*0 is out of range"),
        ({"fingerprint": "f" * 10_000}, "fingerprint is .*: it is not a line of text"),
        ({"run_id": "lsuv-relu-s3-00000000"}, "holds run lsuv-relu-s3-00000000, whose settings give lsuv-relu-s3-"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, change: dict[str, object] | str, message: str) -> None:
    path = put(record(RUN, Options(tmp_path)), tmp_path / RUN.run_id)
    plain = json.loads(path.read_text()) | {"checksum": None}
    path.write_text(change if isinstance(change, str) else json.dumps(plain | change))
    with pytest.raises(BadRecordError, match=message) as caught:
        read_result(path)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples: to make and remove folders takes longer than to read."""
    return put(read_result(SCHEMA_1), tmp_path_factory.mktemp("mutants") / SCHEMA_1.parent.name)


@given(data=st.data())
@settings(max_examples=200)
def test_a_single_bit_that_flips_is_noticed(mutant: Path, data: st.DataObject) -> None:
    result = replace(read_result(SCHEMA_1), options={"threads": 1, "device": "cpu"}, seconds=12.5)
    flipped = bytearray(result.to_json().encode())
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    mutant.write_bytes(flipped)
    with contextlib.suppress(BadRecordError):
        assert read_result(mutant) == result  # a bit of the layout, such as of a space


@given(data=st.data())
@settings(max_examples=300)
def test_whatever_the_bytes_the_reader_raises_its_own_error_or_reads(mutant: Path, data: st.DataObject) -> None:
    original = SCHEMA_1.read_bytes()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 40)) | st.just(len(original)))
    mutant.write_bytes(original[:start] + data.draw(st.binary(max_size=8)) + original[end:])
    try:
        result = read_result(mutant)
    except BadRecordError:
        return
    assert result.run.run_id == mutant.parent.name  # no setting of the run was touched
    assert read_result(put(result, mutant.parent)) == result  # what was read can be written, and reads back
