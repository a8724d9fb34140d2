"""A tiny training on each device, by real processes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from workers import record

from replicate.doctor import devices as module
from replicate.doctor.devices import Answer, devices, judge, tiny
from replicate.errors import CUDA, MEMORY
from replicate.matrix.local import LocalLauncher
from replicate.matrix.slots import make_slots
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import Run

(CPU,), (GPU,) = make_slots("cpu", 1, 1, 1), make_slots("0", 1, 1, 1)


@pytest.fixture
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher(preload=PRELOAD) as launcher:
        yield launcher


def test_the_cpu_trains(launcher: LocalLauncher) -> None:
    found = list(devices(launcher))
    *facts, last = [one for one in found if "gpu" not in one.text]
    assert (last.topic, last.good) == ("training", True)
    assert last.text.startswith("cpu: trains (32-true;")
    assert {one.topic for one in facts} == {"devices"}


def test_a_device_on_which_the_process_dies_is_told(launcher: LocalLauncher) -> None:
    *_, last = devices(launcher, train="workers:die_training")
    assert last.good is False
    assert last.text == "cpu: does not train: its process died: killed by SIGKILL (out of memory, perhaps) about to die"
    assert last.mend


def test_a_device_that_hangs_is_given_up(launcher: LocalLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    (only,) = devices(launcher)
    assert (only.topic, only.good) == ("torch", False)
    assert only.text == "torch cannot be used: no answer in 0 s"


def test_what_does_not_train_comes_with_advice(tmp_path: Path) -> None:
    failed = replace(record(tiny(GPU), Options(tmp_path)), status="error", test_accuracy=None, error="a\nb: no room\n")
    for kind, mend in ((MEMORY, "free its memory"), (CUDA, "see by nvidia-smi"), (None, "`replicate matrix")):
        found = judge(GPU, Answer(replace(failed, passing=kind)), 3)
        assert (found.text, found.good) == ("gpu 0: does not train: b: no room", False)
        assert found.mend.startswith(mend)
    assert judge(GPU, Answer(None, "no answer in 180 s"), 3).text.endswith("no answer in 180 s")
    diverged = replace(record(tiny(GPU), Options(tmp_path)), status="diverged", test_accuracy=None)
    assert judge(GPU, Answer(diverged), 3).good


def test_each_device_trains_in_the_experiments_precision() -> None:
    assert (tiny(CPU).precision, tiny(GPU).precision) == ("32-true", "bf16-mixed")
    assert replace(tiny(CPU), precision="bf16-mixed") == tiny(GPU)
    assert isinstance(tiny(CPU), Run)
