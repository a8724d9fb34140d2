"""The launcher, with real processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from replicate.matrix.local import Event, LocalLauncher, death, tail


def last_events(launcher: LocalLauncher, count: int) -> dict[str, Event]:
    last: dict[str, Event] = {}
    while len(last) < count:
        for event in launcher.events(timeout=300):
            if event.kind != "progress":
                last[event.task] = event
    return last


def test_each_process_has_the_environment_it_is_given_and_no_other(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["CUDA_VISIBLE_DEVICES", "LATER"]
    for gpu in ("0", "1"):  # two devices that need not be there
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
        launcher.start(gpu, "workers:environment", (names,), environment, tmp_path / gpu)
    monkeypatch.setenv("LATER", "set after the server was started")
    launcher.start("late", "workers:environment", (names,), os.environ, tmp_path / "late")
    found = {task: event.value for task, event in last_events(launcher, 3).items()}
    assert found["0"] == {"CUDA_VISIBLE_DEVICES": "0", "LATER": None}
    assert found["1"] == {"CUDA_VISIBLE_DEVICES": "1", "LATER": None}
    assert found["late"]["LATER"] == "set after the server was started"


def test_how_a_task_ends_is_told(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("raises", "workers:fail", ("no luck",), os.environ, tmp_path / "log")
    launcher.start("killed", "workers:die", (signal.SIGKILL,), os.environ, tmp_path / "log2")
    launcher.start("leaves", "workers:leave", (7,), os.environ, tmp_path / "log3")
    last = last_events(launcher, 3)
    assert last["raises"].kind == "failed"
    assert str(last["raises"].value) == "ValueError('no luck')"
    assert "about to fail" in tail(tmp_path / "log")
    assert "ValueError: no luck" in tail(tmp_path / "log")
    assert (last["killed"].kind, last["killed"].value) == ("died", -9)
    assert (last["leaves"].kind, last["leaves"].value) == ("died", 7)


def test_progress_comes_before_the_end(launcher: LocalLauncher, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    launcher.start("endless", "workers:endless", (pid,), os.environ, tmp_path / "log")
    (event,) = launcher.events(timeout=300)
    assert event == Event("progress", "endless", (0, 0))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_no_process_is_left_after_stop(launcher: LocalLauncher, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    launcher.start("endless", "workers:endless", (pid,), os.environ, tmp_path / "log")
    list(launcher.events(timeout=300))
    number = int(pid.read_text())
    assert is_alive(number)
    launcher.stop()
    deadline = time.monotonic() + 300  # its parent, the server, has yet to collect it
    while is_alive(number) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(number)


def test_a_death_in_words() -> None:
    assert death(-9) == "killed by SIGKILL (out of memory, perhaps)"
    assert death(-15) == "killed by SIGTERM"
    assert death(3) == "exit code 3"


def test_the_tail_of_no_log_is_empty(tmp_path: Path) -> None:
    assert tail(tmp_path / "none") == ""
    (tmp_path / "log").write_text("\n".join(str(n) for n in range(50)))
    assert tail(tmp_path / "log", 2) == "48\n49"
