"""NVIDIA's MPS, with a process that has the name of its daemon."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replicate.nvidia_mps import PROGRAM, VARIABLE, daemon_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's MPS is for Linux")


def start(program: Path) -> "subprocess.Popen[bytes]":
    """Run `sleep` under another name, and write the number of its process where the daemon writes its own."""
    program.symlink_to("/bin/sleep")
    running = subprocess.Popen([program, "300"])
    (program.parent / f"{PROGRAM}.pid").write_text(f"{running.pid}\n")
    return running


def test_a_daemon_counts_while_it_lives_and_no_other_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {VARIABLE: str(tmp_path)}
    assert not daemon_runs(environment)
    running = start(tmp_path / PROGRAM)
    assert daemon_runs(environment)
    monkeypatch.setattr("replicate.nvidia_mps.DEFAULT", str(tmp_path))
    assert daemon_runs({})
    running.kill()
    os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)  # wait until it has ended, and leave it a zombie
    assert not daemon_runs(environment)
    running.wait()
    assert not daemon_runs(environment)
    other = start(tmp_path / "another-program")
    assert not daemon_runs(environment)
    other.kill()
    other.wait()


@pytest.mark.parametrize("content", ["", "-1", "9" * 10_000])
def test_a_file_without_the_number_of_a_process(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{PROGRAM}.pid").write_text(content)
    assert not daemon_runs({VARIABLE: str(tmp_path)})
