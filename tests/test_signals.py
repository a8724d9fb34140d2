"""What is left when a command is interrupted, hung up or killed, by real processes."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

REPLICATE = str(Path(sys.executable).with_name("replicate"))
SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")
LONG = ["--only", "init=xavier", "activation=tanh", "--set", "iterations=100000", "milestones=[]"]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start the matrix of one long run in a session of its own; nothing of it outlives the test."""
    started = []

    def start(*program: str) -> "subprocess.Popen[str]":
        words = [*program, REPLICATE, "matrix", SMOKE, *LONG, "--out", str(tmp_path), "--devices", "cpu"]
        words += ["--wandb", "off", "--checkpoint-seconds", "0.2"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(words, start_new_session=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield start
    for process in started:
        for one in session(process.pid):
            one.kill()
        process.communicate()


def session(number: int) -> list[psutil.Process]:
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no {what} after {seconds} s"
        time.sleep(0.05)


def checkpoints(folder: Path) -> list[float]:
    return [path.stat().st_mtime for path in folder.glob("runs/*/checkpoint.pt")]


def test_an_interrupt_while_the_devices_are_looked_for_leaves_nothing(
    command: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = command()
    wait_for(lambda: len(session(process.pid)) >= 3, "process that loads torch")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 3, out
    wait_for(lambda: not session(process.pid), "end of all processes", 30.0)


def test_an_ignored_hangup_stays_ignored_and_nothing_outlives_a_scheduler_that_was_killed(
    command: Callable[..., "subprocess.Popen[str]"], tmp_path: Path
) -> None:
    process = command("nohup")
    wait_for(lambda: checkpoints(tmp_path), "checkpoint")
    os.killpg(process.pid, signal.SIGHUP)
    before = checkpoints(tmp_path)
    wait_for(lambda: checkpoints(tmp_path) > before, "later checkpoint")
    assert process.poll() is None
    process.kill()
    wait_for(lambda: not session(process.pid), "end of all processes", 30.0)


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        words = ["matrix", SMOKE, *LONG, "--out", str(tmp_path), "--devices", "cpu", "--wandb", "off"]
        os.execv(REPLICATE, [REPLICATE, *words, "--checkpoint-seconds", "0.2"])
    try:
        end = time.monotonic() + 120
        while not checkpoints(tmp_path):
            assert time.monotonic() < end
            if select.select([terminal], [], [], 0.05)[0]:
                os.read(terminal, 100_000)  # or its buffer would fill up
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 3
        assert not list(tmp_path.glob("runs/*/claim"))
    finally:
        for one in session(pid):
            one.kill()


def test_a_server_that_is_still_loading_torch_does_not_outlive_its_parent(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(60)\n")
    code = "from replicate.matrix.local import LocalLauncher\nwith LocalLauncher('slow'): input()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    wait_for(begun.exists, "server")
    parent.kill()
    parent.communicate()
    wait_for(lambda: not session(parent.pid), "end of all processes", 30.0)
