"""Findings and fixes, and a tiny run on the CPU by a real process."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from workers import ended

from replicate import doctor
from replicate.cli import main
from replicate.doctor import Finding, data, devices, disk, hardware, judge, show, tiny_run, wandb
from replicate.errors import CUDA, MEMORY
from replicate.matrix.local import Ended, LocalLauncher
from replicate.matrix.task import PRELOAD, Task
from replicate.options import Options

BROKEN = Finding("training", "gpu 0: does not train: boom", good=False, fix="fix [it]\x1b")


def test_the_command_finds_that_the_cpu_trains_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["doctor", "--out", str(tmp_path / "out"), "--data-dir", str(tmp_path / "data")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["  ✓ cpu: trains (32-true; tiny run with LSUV)", "ready to train on cpu"]
    assert [line for line in lines if line[0] != " "][:-1] == ["versions", "disk", "data", "W&B", "devices", "training"]
    assert not list(tmp_path.iterdir())


def test_a_process_that_dies_and_one_that_hangs_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with LocalLauncher(preload=PRELOAD) as launcher:
        *_, last = devices(launcher, train="workers:die_training")
        assert last.text.startswith("cpu: does not train: the process died: killed by SIGKILL")
        monkeypatch.setattr(doctor, "SECONDS", 0.0)
        assert [one.text for one in devices(launcher)] == ["torch does not work: no answer in 0 s"]


def test_a_device_that_does_not_train_comes_with_a_fix(tmp_path: Path) -> None:
    task = Task(tiny_run("cuda"), Options(tmp_path), "gpu 0", "token")
    failed = ended(task.run, "error", error="a\nb: no room\n")
    for kind, fix in ((MEMORY, "free its memory"), (CUDA, "check with nvidia-smi"), (None, "`replicate matrix")):
        finding = judge(task, Ended("gpu 0", replace(failed, passing=kind)))
        assert (finding.text, finding.good) == ("gpu 0: does not train: b: no room", False)
        assert finding.fix.startswith(fix)
    assert judge(task, Ended("gpu 0", ended(task.run, "diverged"))).good
    assert judge(task, Ended("gpu 0", RuntimeError("no answer"))).text == "gpu 0: does not train: no answer"


def test_topics_marks_and_fixes_are_printed_and_one_device_is_enough() -> None:
    file = StringIO()
    works = Finding("training", "cpu: trains (32-true)", good=True)
    assert show(iter([Finding("data", "[bold] here"), BROKEN, works]), Console(file=file, width=20)) == 0
    facts = ["data", "  · [bold] here", "training"]
    judged = ["  ✗ gpu 0: does not train: boom", "    → fix [it]\\x1b", "  ✓ cpu: trains (32-true)"]
    assert file.getvalue().splitlines() == [*facts, *judged, "ready to train on cpu; not on gpu 0"]
    assert show(iter([BROKEN]), Console(file=file)) == 1


def test_gpus_their_memory_and_their_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    gpus = [("H200", 2**37, 2**38, None), ("H200", 2**30, 2**31, None), ("unknown", 0, 0, "CUDA error")]
    found = [(one.text, one.good) for one in hardware({"gpus": gpus, "cuda": "13.0", "capability": "AVX2"})]
    assert [good for _, good in found[:3]] == [None, False, False]
    assert [found[0][0], found[2][0]] == ["gpu 0: H200, 128.0 GiB free of 256.0 GiB", "gpu 2: unknown, CUDA error"]
    assert found[3][0].startswith("NVIDIA's MPS is not running")
    nothing = {"gpus": [], "cuda": None, "capability": "AVX2"}
    assert next(hardware(nothing)).text.startswith("no NVIDIA GPU")
    (tmp_path / "nvidia-smi").touch(0o755)
    assert "this torch was built without CUDA" in next(hardware(nothing)).fix


def test_disks_and_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for split in ("train", "test"):
        (tmp_path / "mine" / split).mkdir(parents=True)
    good, bad = disk(tmp_path / "not" / "yet", tmp_path / "file" / "data")
    assert good.text.endswith(" GiB free")
    assert (bad.good, bad.text) == (False, f"data (--data-dir): {tmp_path / 'file'} is not a folder")
    monkeypatch.setattr(doctor, "MIN_DISK", float("inf"))
    assert all(one.good is False and one.fix.startswith("free some space") for one in disk(tmp_path, tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)  # root may write anywhere
    assert all(one.text.endswith("is not writable") for one in disk(tmp_path, tmp_path))
    missing = [f"{name}: not in {tmp_path}" for name in ("cifar10", "cifar100", "mnist")]
    assert [one.text for one in data(tmp_path)] == [*missing, "synthetic", "folder:mine"]
    assert [one.fix.split()[-3] for one in data(tmp_path) if one.fix] == [
        "cifar-10-python.tar.gz",
        "cifar-100-python.tar.gz",
        "MNIST/raw/*.gz",
    ]


def test_wandb_shows_the_mode_and_never_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert list(wandb()) == [Finding("W&B", "logging is off; API key found")]
