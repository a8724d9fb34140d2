"""NVIDIA's MPS, with a process that bears the name of its daemon."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replicate.nvidia_mps import DEFAULT, PROGRAM, VARIABLE, daemon_runs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVIDIA's MPS is for Linux")


@contextmanager
def process(program: Path) -> Iterator[int]:
    """Run `sleep` under another name; yield the number of its process."""
    program.symlink_to("/bin/sleep")
    running = subprocess.Popen([program, "300"])
    try:
        yield running.pid
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    """The pipe directory as a daemon leaves it, but for the number of its process."""
    folder = tmp_path / "pipes"
    folder.mkdir()
    for name in ("control", "control_lock"):
        (folder / name).touch()
    return folder


def test_a_daemon_counts_while_it_lives(pipes: Path, tmp_path: Path) -> None:
    environment = {VARIABLE: str(pipes)}
    assert not daemon_runs(environment)
    with process(tmp_path / PROGRAM) as number:
        (pipes / f"{PROGRAM}.pid").write_text(f"{number}\n")
        assert daemon_runs(environment)
        assert not daemon_runs({VARIABLE: str(tmp_path)})
    assert not daemon_runs(environment)


def test_a_daemon_that_has_ended_and_whose_parent_has_not_noticed_is_gone(pipes: Path, tmp_path: Path) -> None:
    (tmp_path / PROGRAM).symlink_to("/bin/sleep")
    ended = subprocess.Popen([tmp_path / PROGRAM, "0"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # wait until it has ended, and leave it a zombie
    (pipes / f"{PROGRAM}.pid").write_text(f"{ended.pid}\n")
    assert not daemon_runs({VARIABLE: str(pipes)})
    ended.wait()


def test_another_program_with_the_number_of_a_daemon_that_is_gone_does_not_count(pipes: Path, tmp_path: Path) -> None:
    with process(tmp_path / "another") as number:
        (pipes / f"{PROGRAM}.pid").write_text(f"{number}\n")
        assert not daemon_runs({VARIABLE: str(pipes)})


@pytest.mark.parametrize("content", ["", "none", "-1", "0", "9" * 30, "9" * 10_000])
def test_a_file_without_the_number_of_a_process_is_no_daemon(pipes: Path, content: str) -> None:
    (pipes / f"{PROGRAM}.pid").write_text(content)
    assert not daemon_runs({VARIABLE: str(pipes)})


def test_a_pipe_in_place_of_the_file_is_not_waited_for(pipes: Path) -> None:
    os.mkfifo(pipes / f"{PROGRAM}.pid")
    assert not daemon_runs({VARIABLE: str(pipes)})


def test_the_folder_is_nvidias_own_unless_the_environment_names_one(
    pipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DEFAULT == "/tmp/nvidia-mps"
    monkeypatch.setattr("replicate.nvidia_mps.DEFAULT", str(pipes))
    with process(tmp_path / PROGRAM) as number:
        (pipes / f"{PROGRAM}.pid").write_text(str(number))
        assert daemon_runs({})
        assert not daemon_runs({VARIABLE: str(tmp_path)})
