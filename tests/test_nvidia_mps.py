"""NVIDIA's MPS, with a process that has the name of its daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.nvidia_mps import DEFAULT, PROGRAM, VARIABLE, daemon_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's MPS is for Linux")


def start(program: Path, seconds: str) -> "subprocess.Popen[bytes]":
    """Run `sleep` under another name, and write the number of its process where the daemon writes its own."""
    program.symlink_to("/bin/sleep")
    running = subprocess.Popen([program, seconds])
    (program.parent / f"{PROGRAM}.pid").write_text(f"{running.pid}\n")
    return running


def test_a_daemon_counts_while_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT == "/tmp/nvidia-mps"
    environment = {VARIABLE: str(tmp_path)}
    assert not daemon_runs(environment)
    running = start(tmp_path / PROGRAM, "300")
    assert daemon_runs(environment)
    assert not daemon_runs({VARIABLE: str(tmp_path / "elsewhere")})
    monkeypatch.setattr("replicate.nvidia_mps.DEFAULT", str(tmp_path))
    assert daemon_runs({})
    running.kill()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # wait until it has ended, and leave it a zombie
    assert not daemon_runs(environment)
    running.wait()
    assert not daemon_runs(environment)


def test_another_program_with_the_same_number_does_not_count(tmp_path: Path) -> None:
    running = start(tmp_path / "another", "300")
    assert not daemon_runs({VARIABLE: str(tmp_path)})
    running.kill()
    running.wait()


@pytest.mark.parametrize("content", ["", "none", "-1", "0", "9" * 30, "9" * 10_000, None])
def test_a_file_without_the_number_of_a_process(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / f"{PROGRAM}.pid"
    if content is None:
        os.mkfifo(path)  # reading it would wait for a writer
    else:
        path.write_text(content)
    assert not daemon_runs({VARIABLE: str(tmp_path)})
