"""What is found, and which advice follows."""

import os
import subprocess
from pathlib import Path

import pytest

from replicate.doctor.finding import Finding
from replicate.doctor.found import Found, Gpu, cpu, gpus, nvidia_smi, sharing

H200 = Gpu("NVIDIA H200", 139 * 2**30, 140 * 2**30)
LISTED = ["GPU 0: NVIDIA H200 (UUID: GPU-8f3a)", "GPU 1: NVIDIA H200 (UUID: GPU-11aa)"]


def found(*seen: Gpu, cuda: str | None = "13.0", mps: bool = False) -> Found:
    return Found(seen, cuda, mps, "AVX2")


def test_gpus_with_their_free_memory() -> None:
    full = Gpu("NVIDIA H200", 2**30, 140 * 2**30)
    good, bad = gpus(found(H200, full), LISTED, {})
    assert good == Finding("devices", "gpu 0: NVIDIA H200, 139.0 GiB free of 140.0 GiB")
    assert (bad.text, bad.good) == ("gpu 1: NVIDIA H200, 1.0 GiB free of 140.0 GiB", False)
    assert "nvidia-smi shows who uses it" in bad.mend


def test_a_broken_gpu_hides_no_other() -> None:
    first, second = gpus(found(Gpu("unknown", 0, 0, "CUDA error: unspecified"), H200), LISTED, {})
    assert (first.text, first.good) == ("gpu 0: unknown: CUDA error: unspecified", False)
    assert second.good is None


@pytest.mark.parametrize(
    ("cuda", "visible", "mend"),
    [
        (None, None, "this torch was built without CUDA"),
        ("13.0", None, "the driver may be too old for CUDA 13.0"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES hides them"),
        ("13.0", "7", "CUDA_VISIBLE_DEVICES hides them, or names none that is there"),
    ],
)
def test_why_torch_sees_none_of_the_drivers_gpus(cuda: str | None, visible: str | None, mend: str) -> None:
    *_, last = gpus(found(cuda=cuda), LISTED, {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert (last.text, last.good) == ("the driver lists 2 GPUs, torch sees none", False)
    assert last.mend.startswith(mend)


def test_mig_instances_take_a_command_each() -> None:
    listed = [LISTED[0], "MIG 1g.18gb Device 0: (UUID: MIG-1)", "MIG 1g.18gb Device 1: (UUID: MIG-2)"]
    one = Gpu("NVIDIA H200 MIG 1g.18gb", 16 * 2**30, 16 * 2**30)
    gpu, visible, mig = gpus(found(one), listed, {"CUDA_VISIBLE_DEVICES": "MIG-2"})
    assert gpu.text.startswith("gpu 0: NVIDIA H200 MIG 1g.18gb, 16.0 GiB free")
    assert visible.text == "CUDA_VISIBLE_DEVICES is 'MIG-2'"
    assert mig.text == "the driver lists 2 MIG instances (nvidia-smi -L)"
    assert "CUDA_VISIBLE_DEVICES=MIG-…" in mig.mend


def test_without_a_gpu_and_on_a_mac() -> None:
    none, mps = gpus(found(cuda=None, mps=True), [], {})
    assert none.text.startswith("no NVIDIA GPU: runs go to the CPU")
    assert (none.good, mps.good) == (None, None)
    assert "--devices mps uses it; untested" in mps.text


def test_the_processor_and_its_memory() -> None:
    processor, memory = cpu(found())
    assert "AVX2" in processor.text
    assert f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} threads" in (
        processor.text
    )
    free, total = (float(word) for word in memory.text.replace(",", "").split() if word[0].isdigit())
    assert 0 < free <= total


def test_the_driver_is_asked_by_its_own_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_smi() == []
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0: a" && echo "  MIG 1g.18gb b"\n')
    program.chmod(0o755)
    assert nvidia_smi() == ["GPU 0: a", "MIG 1g.18gb b"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert nvidia_smi() == []


def test_nvidias_mps_is_a_fact_with_advice_where_it_could_be_started(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "pipes")}
    assert list(sharing(found(mps=True), environment)) == []  # Apple's is something else
    (absent,) = sharing(found(H200), environment)
    assert (absent.good, absent.mend) == (None, "")
    assert absent.text.startswith("NVIDIA's MPS is not installed (nvidia-cuda-mps-control is not on PATH)")

    program = tmp_path / "nvidia-cuda-mps-control"
    program.symlink_to("/bin/sleep")
    (stopped,) = sharing(found(H200), environment)
    assert stopped.text.startswith("NVIDIA's MPS is installed and not running")
    assert (stopped.good, stopped.mend.endswith("start it before the runs: nvidia-cuda-mps-control -d")) == (None, True)

    daemon = subprocess.Popen([program, "300"])
    try:
        (tmp_path / "pipes").mkdir()
        (tmp_path / "pipes" / "nvidia-cuda-mps-control.pid").write_text(f"{daemon.pid}\n")
        (running,) = sharing(found(H200, H200), environment)
    finally:
        daemon.kill()
        daemon.wait()
    assert running.text.startswith("NVIDIA's MPS is running")
    assert (running.good, running.mend) == (None, "")
