"""The launcher, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import wait

from replicate.errors import KILLED
from replicate.matrix.local import SIGNALS, Ended, LocalLauncher, Progress, stoppable, tail
from replicate.matrix.task import Task
from replicate.options import Options
from replicate.run import Run

TESTS = Path(__file__).parents[1]


def with_path(*folders: Path) -> dict[str, str]:
    """The environment, with folders where Python looks for modules first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")])}


def test_the_event_describes_how_a_task_has_ended(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("raises", "workers:fail", ("no luck",), os.environ, tmp_path / "log")
    launcher.start("killed", "workers:die", (signal.SIGKILL,), os.environ, tmp_path / "log2")
    launcher.start("leaves", "workers:leave", (7,), os.environ, tmp_path / "log3")
    ends: dict[str, tuple[str, str | None, int | None]] = {}
    while len(ends) < 3:
        ends |= {event.task: (str(event.value), event.kind, event.exit_code) for event in launcher.events(timeout=300)}
    assert ends == {
        "raises": ("ValueError: no luck", None, None),
        "killed": ("killed by SIGKILL (out of memory, perhaps)", KILLED, -9),
        "leaves": ("exit code 7", None, 7),
    }
    assert "about to fail" in tail(tmp_path / "log")
    assert tail(tmp_path / "log", 1) == "ValueError: no luck"
    assert tail(tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import torch_of_another_version",
            "broken_library: ModuleNotFoundError: No module named 'torch_of_another_version'",
        ),
        ("1 / 0", "broken_library: ZeroDivisionError: division by zero"),
        ("raise SystemExit('no licence')", "broken_library: SystemExit: no licence"),
        (
            "from replicate import provenance; provenance.sources = lambda: 'edited'",
            "replicate: RuntimeError: its files were changed meanwhile; give the command again",
        ),
        ("import os; os.abort()", "broken_library: the process that loads it died ("),
    ],
)
def test_what_prevents_the_preload_is_the_end_of_every_task(tmp_path: Path, code: str, message: str) -> None:
    """In a process of its own, because a process has one server."""
    (tmp_path / "broken_library.py").write_text(code)
    words = [sys.executable, __file__, str(tmp_path)]
    environment = with_path(tmp_path, TESTS)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert [line.startswith(f"cannot load {message}") for line in done.stdout.splitlines()] == [True] * 2


def end_of_two_tasks(log: Path) -> None:
    with LocalLauncher(preload="broken_library") as launcher:
        for task in ("a", "b"):
            launcher.start(task, "os:getpid", (), os.environ, log / task)
            (end,) = launcher.events(timeout=60)
            print(end.value)


def test_a_run_loads_nothing_that_may_have_been_edited_since(launcher: LocalLauncher, tmp_path: Path) -> None:
    small = {"width": 0.125, "batch_size": 16, "lsuv_batch_size": 16, "lsuv_max_iter": 1, "iterations": 2}
    run = Run("lsuv", "maxout", dataset="synthetic", milestones=[], precision="32-true", **small)
    task = Task(run, Options(tmp_path, tmp_path), "cpu", "token")
    launcher.start("late", "workers:loaded_by_a_run", (task,), os.environ, tmp_path / "log")
    while not isinstance(event := next(launcher.events(timeout=300)), Ended):
        pass
    assert event.value == (2, [])


def test_a_task_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also if it reports nothing that its parent could fail to receive."""
    words = [sys.executable, __file__, str(tmp_path), "killed"]
    parent = subprocess.Popen(words, env=with_path(TESTS))
    wait((tmp_path / "pid").exists, "the task")
    wait(lambda: (tmp_path / "pid").read_text() != "", "its number")
    task = Path("/proc", (tmp_path / "pid").read_text())
    assert task.exists()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 3
    while task.exists():
        assert time.monotonic() < end


def test_a_signal_that_comes_while_the_server_starts_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: os.kill(os.getpid(), signal.SIGUSR1))
    with stoppable() as stopped, LocalLauncher(preload="json"):
        assert stopped()


def test_no_process_is_left_after_stop(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("endless", "workers:endless", (tmp_path / "pid",), os.environ, tmp_path / "log")
    assert list(launcher.events(timeout=300)) == [Progress("endless", (0, 0))]
    process = Path("/proc") / (tmp_path / "pid").read_text()
    assert process.exists()
    launcher.stop()

    wait(lambda: not process.exists(), "its parent, the server, to collect it")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flags_of_nested_stoppables(number: int) -> None:
    before = signal.getsignal(number)
    with stoppable() as outer:
        with stoppable() as inner:
            assert not inner()
            os.kill(os.getpid(), number)
        assert inner()
        assert outer()
    assert signal.getsignal(number) is before


def wait_for_a_silent_task(folder: Path) -> None:
    with LocalLauncher(preload="json") as launcher:
        launcher.start("silent", "workers:silent", (folder / "pid",), os.environ, folder / "log")
        list(launcher.events(timeout=60))


if __name__ == "__main__":
    (end_of_two_tasks if sys.argv[2:] == [] else wait_for_a_silent_task)(Path(sys.argv[1]))
