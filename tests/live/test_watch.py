"""A matrix watched from another shell: `status FILE --watch`, in a process of its own."""

import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from live_records import ended
from workers import put

from replicate.cli import main
from replicate.experiment import Experiment
from replicate.store.lease import acquire, release
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
ONLY = ["--only", "init=lsuv", "activation=tanh"]


@contextmanager
def watching(tmp_path: Path, **more: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "replicate", "status", "small.yaml", "--out", "out", "--watch", *ONLY]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def folders(experiment: Experiment, tmp_path: Path) -> dict[str, Path]:
    runs = experiment.runs({"init": ["lsuv"], "activation": ["tanh"]})
    return {run.run_id: tmp_path / "out" / "runs" / run.run_id for run in runs}


def test_a_line_a_change_until_all_is_done(experiment: Experiment, tmp_path: Path, folders: dict[str, Path]) -> None:
    runs = {run.run_id: run for run in experiment.runs()}
    first, second, third = folders
    put(ended(runs[first], accuracy=90.0), folders[first])
    with watching(tmp_path, stdout=subprocess.PIPE) as process:
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], daemon=True).start()

        def said() -> str:
            return lines.get(timeout=300).rstrip()

        assert said() == "3 runs: 1 done, 2 waiting"
        owner = Owner("gpu 1", 100, iteration=50)
        place = f"gpu 1 (process {os.getpid()} on {owner.host})"
        holding = acquire(RunFolder(folders[second]), owner)
        assert said() == f"[1/3] {second}: runs on {place}"
        release(RunFolder(folders[second]), holding.token)
        assert said() == f"[1/3] {second}: waits"
        put(ended(runs[second], "error"), folders[second])
        assert said() == f"[1/3] {second}: ERROR in 50 s"
        holding = acquire(RunFolder(folders[second]), owner)
        assert said() == f"[1/3] {second}: runs on {place}"
        put(ended(runs[second], accuracy=80.0), folders[second])
        release(RunFolder(folders[second]), holding.token)
        assert said() == f"[2/3] {second}: converged 80.00 % in 50 s"
        put(ended(runs[third], "diverged"), folders[third])
        assert said() == f"[3/3] {third}: n/c (diverged) in 50 s"
        assert said() == "3 runs: 3 done"
        assert process.wait(300) == 0


def drain(terminal: int) -> None:
    with suppress(OSError):  # the other end is closed
        while os.read(terminal, 10_000):
            pass
    os.close(terminal)


def test_on_a_terminal_it_is_drawn_until_ctrl_c(
    experiment: Experiment, tmp_path: Path, folders: dict[str, Path]
) -> None:
    master, slave = pty.openpty()
    text = b""
    with watching(tmp_path, stdout=slave, stderr=slave) as process:
        os.close(slave)
        while b"0/3" not in text:
            text += os.read(master, 10_000)
        # Nobody's reading would let the terminal fill up, and the process wait for ever.
        threading.Thread(target=drain, args=(master,), daemon=True).start()
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 3
    assert b"small in out" in text
    assert b"3 runs: 0 done, 3 waiting" in text


def test_errors_are_exit_code_1(
    experiment: Experiment, tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {run.run_id: run for run in experiment.runs()}
    for name, status in zip(folders, ("converged", "error", "not_converged"), strict=True):
        put(ended(runs[name], status, 10.0), folders[name])
    words = [str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), *ONLY]
    assert main(["status", *words, "--watch"]) == 1
    assert "3 runs: 2 done, 1 error" in capsys.readouterr().out
    assert main(["status", *words]) == 0
    assert "2/3 10.0 %" in capsys.readouterr().out
