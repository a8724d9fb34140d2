"""The record of a run: its Result for each outcome, and the digest of the weights, by hand."""

import hashlib
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from replicate.options import Options
from replicate.provenance import Code
from replicate.run import Run
from replicate.store.result import status_of
from replicate.training.record import RunRecord, weights_sha256

RUN = Run("lsuv", "relu", iterations=8, milestones=[4])


def test_the_digest_is_over_names_types_shapes_and_bytes() -> None:
    net = nn.Linear(2, 1)
    net.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])})
    content = b"weight torch.float32 [1, 2]\n" + struct.pack("<2f", 1, -2)
    content += b"bias torch.float32 [1]\n" + struct.pack("<f", 0.5)
    assert weights_sha256(net) == hashlib.sha256(content).hexdigest()


def test_the_layout_in_memory_does_not_matter_but_a_bit_does() -> None:
    net = nn.Conv2d(3, 4, 3)
    before = weights_sha256(net)
    assert weights_sha256(net.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        net.weight.view(torch.int32)[3, 2, 1, 0] ^= 1
    assert weights_sha256(net) != before
    assert weights_sha256(net.bfloat16()) != weights_sha256(net.half())  # NumPy has no bfloat16


@pytest.mark.parametrize(
    ("classes", "accuracy", "status"),
    [(10, 15.0, "not_converged"), (10, 15.01, "converged"), (4, 37.5, "not_converged"), (4, 38.0, "converged")],
)
def test_up_to_one_and_a_half_times_chance_is_not_converged(classes: int, accuracy: float, status: str) -> None:
    assert status_of(accuracy, classes) == status


def test_a_resumed_record_names_who_trained_which_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.provenance.code", lambda: Code("a" * 40, False, "5f" * 32))
    options = Options(tmp_path)
    record = RunRecord(RUN, options, "eager", [{"attempt": 1, "when": "then", "reason": "killed"}])
    record.init, record.init_passes = [{"layer": "conv1", "piece": 0, "variance": 1.0}], 39
    first = record.result("error")
    assert first.parts is None  # one part
    assert first.history == [{"attempt": 1, "when": "then", "reason": "killed"}]
    same = RunRecord(RUN, options, "eager")
    same.resume({"record": record.state_dict(), "iteration": 5})
    assert (same.init, same.result("error").init_passes) == (record.init, 39)
    assert same.result("error").parts is None
    saved = same.state_dict()
    monkeypatch.setattr("replicate.provenance.code", lambda: Code("b" * 40, True, "7c" * 32))
    other = RunRecord(RUN, options, "eager")
    other.resume({"record": saved, "iteration": 7})
    result = other.result("error")
    assert (result.data_label, result.fingerprint) == ("cifar10", "unknown")  # the data are not read yet
    assert [(part["from"], part["commit"]) for part in result.parts] == [(0, "a" * 40), (7, "b" * 40)]
    assert result.parts[1]["environment"] == result.environment
    assert result.seconds > saved["seconds"] > 0
