"""The process that trains: strict arithmetic, and what a record says of the machine."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import train_run

from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.training import environment
from replicate.training.environment import WORKSPACE, configure, environment_record


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "")
    threads = torch.get_num_threads()
    environment._uses_nvidia_mps.cache_clear()
    yield
    environment._uses_nvidia_mps.cache_clear()
    torch.set_num_threads(threads)


def test_the_cpu_is_strict_and_a_gpu_where_it_is_asked_to_be() -> None:
    configure(Options(Path("out")))
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ[WORKSPACE] == ":4096:8"
    configure(Options(Path("out"), device="cuda"))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark = True
    configure(Options(Path("out"), device="cuda", deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_workspace_that_gives_the_same_bits_is_left_and_another_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, taken in ((":16:8", ":16:8"), (":4096:2", ":4096:8")):
        monkeypatch.setenv(WORKSPACE, said)
        configure(Options(Path("out")))
        assert os.environ[WORKSPACE] == taken


def test_a_record_says_what_picks_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    options = Options(Path("out"), threads=1, commit=("abc", False))
    configure(options)
    said = environment_record(options)
    assert (said["commit"], said["dirty"], said["device"]) == ("abc", False, said["environment"]["cpu"])
    assert said["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert said["environment"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert (said["environment"]["threads"], said["environment"]["deterministic"]) == (1, True)
    assert said["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_a_record_says_whether_the_process_began_under_nvidias_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    answers = [True, False]
    monkeypatch.setattr("replicate.nvidia_mps.daemon_runs", lambda _: answers.pop(0))
    cpu, cuda = (Options(Path("out"), device=device, commit=("abc", False)) for device in ("cpu", "cuda"))
    configure(cpu)
    assert "nvidia_mps" not in environment_record(cpu)["environment"]
    configure(cuda)
    assert answers == [False]  # asked before CUDA starts
    assert environment_record(cuda)["environment"]["nvidia_mps"] is True
    assert answers == [False]  # and once: a daemon that ends meanwhile changes nothing of that
    environment._uses_nvidia_mps.cache_clear()  # as in another process
    assert "nvidia_mps" not in environment_record(cuda)["environment"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("activation", "precision"), [("relu", "32-true"), ("maxout", "bf16-mixed")])
def test_on_a_gpu_the_same_run_twice_gives_the_same_bits(
    tiny: Run, options: Options, tmp_path: Path, activation: str, precision: str
) -> None:
    run = replace(tiny, activation=activation, precision=precision, width=0.5, iterations=60, milestones=[30])
    strict = replace(options, device="cuda", deterministic=True)
    first, second = train_run(run, strict), train_run(run, replace(strict, out=tmp_path / "again"))
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert first.error is None  # an operation without a deterministic kernel would have raised
    assert first.weights_sha256 == second.weights_sha256
    assert first.environment is not None
    assert first.environment["deterministic"]
