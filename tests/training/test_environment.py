"""The process that trains: what torch finds, strict arithmetic, and what a record holds of the machine."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import train_run

from replicate.options import Options
from replicate.provenance import Code
from replicate.run import Run
from replicate.training import environment
from replicate.training.environment import WORKSPACE, configure, environment_record, probe, survey


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(WORKSPACE, "")
    threads = torch.get_num_threads()
    environment._uses_nvidia_mps.cache_clear()
    yield
    environment._uses_nvidia_mps.cache_clear()
    torch.set_num_threads(threads)


def test_the_devices_and_the_data_are_found(monkeypatch: pytest.MonkeyPatch, few_images: None, tmp_path: Path) -> None:
    def memory(number: int) -> tuple[int, int]:
        if number:
            raise RuntimeError("CUDA error: busy\nmore")
        return 1, 2

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"model {number}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    found = probe(lambda *value: None)
    assert found["cuda"] == torch.version.cuda
    assert found["gpus"] == [("model 0", 1, 2, None), ("model 1", 0, 0, "CUDA error: busy")]
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    surveyed = survey(["synthetic"], tmp_path)
    assert (surveyed["gpus"], surveyed["train_images"], surveyed["test_images"]) == (
        2,
        {"synthetic": 100},
        {"synthetic": 20},
    )
    assert len(surveyed["fingerprints"]["synthetic"]) == 64
    assert surveyed["shapes"] == {"synthetic": (3, 32, 32)}


def test_the_cpu_is_strict_and_a_gpu_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, used in (("", ":4096:8"), (":16:8", ":16:8"), (":4096:2", ":4096:8")):  # two give the same bits twice
        monkeypatch.setenv(WORKSPACE, given)
        configure(Options(Path("out")))
        assert os.environ[WORKSPACE] == used
    assert torch.are_deterministic_algorithms_enabled()
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


def test_a_record_holds_what_selects_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("MKL_CBWR", "AVX\n")
    monkeypatch.setattr("replicate.provenance.code", lambda: Code("abc", False, "5f" * 32))
    options = Options(Path("out"), threads=1)
    configure(options)
    found = environment_record(options)
    assert (found["commit"], found["dirty"], found["sources"]) == ("abc", False, "5f" * 32)
    assert found["device"] == found["environment"]["cpu"]
    assert (found["environment"]["threads"], found["environment"]["deterministic"]) == (1, True)
    assert found["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert found["environment"]["MKL_CBWR"] == r"AVX\n"  # a line, as in every record


def test_a_record_holds_whether_the_process_started_under_nvidias_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    answers = [True, False]
    monkeypatch.setattr("replicate.nvidia_mps.daemon_runs", lambda _: answers.pop(0))
    options = Options(Path("out"), device="cuda")
    configure(options)
    assert answers == [False]  # asked before CUDA starts
    assert environment_record(options)["environment"]["nvidia_mps"] is True
    assert answers == [False]  # and only once: a daemon that ends meanwhile makes no difference
    environment._uses_nvidia_mps.cache_clear()  # as in another process
    assert "nvidia_mps" not in environment_record(options)["environment"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_the_same_run_twice_gives_the_same_bits(tiny: Run, options: Options, tmp_path: Path) -> None:
    run = replace(tiny, activation="maxout", precision="bf16-mixed", width=0.5, iterations=60, milestones=[30])
    strict = replace(options, device="cuda", deterministic=True)
    first, second = train_run(run, strict), train_run(run, replace(strict, out=tmp_path / "again"))
    assert first.error is None  # an operation without a deterministic kernel would have raised
    assert first.weights_sha256 == second.weights_sha256
    assert first.environment["deterministic"]
