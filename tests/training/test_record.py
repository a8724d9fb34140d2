"""The record of a run: what each outcome makes of it, and the digest of the weights, by hand."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from replicate.data.dataset import Dataset
from replicate.options import Options
from replicate.run import Run
from replicate.training.module import DivergedError, Eager
from replicate.training.record import Failed, Finished, RunRecord, weights_sha256

RUN = Run("lsuv", "relu", iterations=8, milestones=[4])


def test_it_is_over_names_types_shapes_and_bytes() -> None:
    net = nn.Linear(2, 1)
    net.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])})
    content = b"weight torch.float32 [1, 2]\n" + struct.pack("<2f", 1, -2)
    content += b"bias torch.float32 [1]\n" + struct.pack("<f", 0.5)
    assert weights_sha256(net) == hashlib.sha256(content).hexdigest()


def test_the_layout_in_memory_does_not_count_but_a_bit_does() -> None:
    net = nn.Conv2d(3, 4, 3)
    before = weights_sha256(net)
    assert weights_sha256(net.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        weight = net.weight.view(torch.int32)
        weight[3, 2, 1, 0] ^= 1
    assert weights_sha256(net) != before


def test_types_that_numpy_does_not_know() -> None:
    net = nn.Linear(2, 1)
    assert weights_sha256(net.bfloat16()) != weights_sha256(net.half())
    assert len(weights_sha256(nn.BatchNorm1d(3))) == 64  # its counter has no axis


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    options = Options(tmp_path, commit=("a" * 40, False))
    return RunRecord(RUN, options, Eager(), [{"attempt": 1, "when": "then", "reason": "killed"}])


def data(classes: int) -> Dataset:
    images = np.zeros((3, 3, 2, 2), np.uint8)
    names = tuple("abcdefghij"[:classes])
    return Dataset("some images", "f" * 64, names, images, np.zeros(3, int), images[:2], np.zeros(2, int))


def finished(accuracy: float, loss: float = 0.5) -> Finished:
    row = {"iteration": 8, "train_loss": loss, "test_accuracy": accuracy}
    return Finished(row, 100.0, "e" * 64)


@pytest.mark.parametrize(
    ("classes", "accuracy", "status"),
    [(10, 15.0, "not_converged"), (10, 15.01, "converged"), (4, 37.5, "not_converged"), (4, 38.0, "converged")],
)
def test_up_to_one_and_a_half_times_chance_is_not_converged(
    record: RunRecord, classes: int, accuracy: float, status: str
) -> None:
    record.dataset = data(classes)
    result = record.result(finished(accuracy))
    assert (result.status, result.test_accuracy, result.iteration) == (status, accuracy, 8)
    assert (result.images_per_second, result.weights_sha256) == (100.0, "e" * 64)
    assert (result.data_label, result.fingerprint) == ("some images", "f" * 64)
    assert (result.classes, result.test_images) == (classes, 2)


def test_a_loss_that_overflowed_in_the_last_row_is_null(record: RunRecord) -> None:
    record.dataset = data(10)
    assert record.result(finished(10.0, float("inf"))).train_loss is None


def test_a_divergence_keeps_the_steps_before_it_and_a_failure_its_traceback(record: RunRecord) -> None:
    diverged = record.result(DivergedError(57))
    assert (diverged.status, diverged.iteration, diverged.test_accuracy) == ("diverged", 57, None)
    failed = record.result(Failed("Traceback", "disk"))
    assert (failed.status, failed.error, failed.passing, failed.iteration) == ("error", "Traceback", "disk", 0)
    assert failed.history == [{"attempt": 1, "when": "then", "reason": "killed"}]
    assert (failed.data_label, failed.fingerprint, failed.classes) == ("cifar10", "unknown", None)  # never read


def test_a_resumed_record_names_who_trained_which_part(record: RunRecord, tmp_path: Path) -> None:
    record.init = [{"layer": "conv1", "piece": 0, "variance": 1.0}]
    assert record.result(Failed("", None)).parts is None  # one part
    state = {"record": record.state_dict(), "iteration": 5}
    same = RunRecord(RUN, record.options, Eager())
    same.resume(state)
    assert same.init == record.init
    assert same.result(Failed("", None)).parts is None
    other = RunRecord(RUN, Options(tmp_path, commit=("b" * 40, True)), Eager())
    saved = same.state_dict()
    other.resume({"record": saved, "iteration": 7})
    result = other.result(Failed("", None))
    assert [(part["from"], part["commit"]) for part in result.parts] == [(0, "a" * 40), (7, "b" * 40)]
    assert result.seconds > saved["seconds"] > 0
