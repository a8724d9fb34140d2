"""Records: written whole or not at all, read strictly."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from workers import put, record

from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.fields import as_line
from replicate.store.measurements import read_curve, read_layers, read_predictions
from replicate.store.result import BadRecordError, read_result
from replicate.store.run_folder import RunFolder

RUN = Run("lsuv", "relu", 3, dataset="synthetic", milestones=[40])
ROOT = Path(__file__).parents[2]
(SCHEMA_1,) = ROOT.glob("tests/records/schema-1/*/result.json")


def test_a_record_of_each_schema_stays_readable() -> None:
    result = read_result(SCHEMA_1)
    assert (result.status, result.test_accuracy) == ("not_converged", 10.0)
    later = (result.history, result.passing, result.url, result.run.input_scale)
    assert later == ([], None, None, 1.0)


def test_the_records_of_the_results_stay_readable() -> None:
    paths = sorted(ROOT.glob("results/*/runs/*/result.json"))
    assert len(paths) > 90
    for path in paths:
        folder, result = RunFolder(path.parent), read_result(path)
        there = [one.name for one in path.parent.iterdir()]
        assert "layers.json" not in there or read_layers(folder, result.fingerprint)[0].iteration == 0
        assert "predictions.npz" not in there or len(read_predictions(folder).classes) == result.test_images
        assert "curve.csv" not in there or result.status == "diverged" or read_curve(folder, ["lr"])["lr"]


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples: to make and remove folders takes longer than to read."""
    return put(read_result(SCHEMA_1), tmp_path_factory.mktemp("mutants") / SCHEMA_1.parent.name)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
)
ENTRY = st.fixed_dictionaries(
    {"layer": st.text(max_size=5), "piece": st.integers(), "variance": st.none() | st.floats()}
)
ODD: dict[str, st.SearchStrategy[object]] = {
    "versions": st.dictionaries(st.text(), st.text(max_size=5), max_size=3),
    "options": st.dictionaries(st.text(max_size=5), PLAIN, max_size=3),
    "environment": st.dictionaries(st.text(max_size=5), PLAIN, max_size=3),
    "parts": st.lists(st.dictionaries(st.text(max_size=5), PLAIN, max_size=3), max_size=2),
    "init": st.lists(st.builds(dict, ENTRY, tries=PLAIN), max_size=2),
    **dict.fromkeys(("device", "error", "url", "finished", "data_label", "fingerprint"), st.text()),
    **dict.fromkeys(("seconds", "train_loss", "images_per_second", "test_accuracy"), st.none() | st.floats()),
    **dict.fromkeys(("iteration", "classes", "test_images"), st.integers() | st.integers(2**53)),
    "status": st.sampled_from(["converged", "not_converged", "diverged", "error"]),
}


@given(changes=st.sampled_from(sorted(ODD)).flatmap(lambda name: st.tuples(st.just(name), ODD[name])))
@settings(max_examples=150)
def test_what_can_be_written_reads_back(mutant: Path, changes: tuple[str, object]) -> None:
    try:
        result = replace(read_result(SCHEMA_1), **dict([changes]))
    except (ValidationError, UsageError):
        return
    assert read_result(put(result, mutant.parent)) == result


@given(st.text() | st.text().map(lambda text: 2000 * text))
def test_any_text_becomes_a_line(text: str) -> None:
    result = replace(read_result(SCHEMA_1), device=as_line(text), versions={as_line(text): as_line(text)})
    assert result.device == as_line(result.device)  # a second time, nothing changes
    assert result.device == text or not text.isprintable() or len(text) > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"threads": 10**400}}, "options is .*: a number is out of range"),
        ({"environment": {"threads": [{"x": 2**53 + 1}]}}, "environment is .*: a number is out of range"),
        ({"environment": {"x": 1e40}}, "environment is .*: a number is out of range"),
        ({"environment": {"x\x1b": 1}}, "environment is .*: it is not a line of text"),
        ({"parts": [{"x": {"x": {"x": {"x": {"x": {}}}}}}]}, "parts.0 is .*: it is too long or nested too deeply"),
        ({"parts": [{"x": [0] * 1001}]}, "parts.0 is .*: it is too long or nested too deeply"),
        ({"init": [{"layer": "x", "piece": 0, "variance": 10**400}]}, "init.0.variance must be a number"),
        ({"init": [{"layer": "x", "piece": 0, "variance": 1.0, "tries": 10**400}]}, "init.0 is .* out of range"),
        ({"init": [{"layer": "x", "piece": 0, "variance": 1.0}] * 1001}, "init has too many values; give at most 1000"),
        ({"versions": {"torch": "\ud800"}}, "versions.torch is .*: it is not a line of text"),
        ({"versions": {"\x1b[2J": "1"}}, r"versions.\\x1b\[2J.\[key\] is .*: it is not a line of text"),
        ({"fingerprint": "g" * 64}, "fingerprint is .*: it does not have 64 hexadecimal digits"),
        ({"weights_sha256": "unknown"}, "weights_sha256 is .*: it does not have 64 hexadecimal digits"),
        ({"history": [{"attempt": 1, "when": "\n", "reason": "x"}]}, "history.0.when is .*: it is not a line of text"),
        ({"error": "x" * 100_001}, "error is .*: it is too long"),
        ({"seconds": -1}, "seconds = -1 is out of range"),
    ],
)
def test_every_field_is_checked(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = put(record(RUN, Options(tmp_path)), tmp_path / RUN.run_id)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checksum": None} | change))
    with pytest.raises(BadRecordError, match=message) as caught:
        read_result(path)
    assert caught.value.reason.isprintable()
    assert len(caught.value.reason) <= 1000


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
        ({"fingerprint": "f" * 10_000}, "fingerprint is .*: it does not have 64 hexadecimal digits"),
        ({"x" * 10_000: 1}, "unknown key 'xxx"),
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
