"""The launcher, with real processes."""

import os
import signal
import time
from pathlib import Path

import pytest

from replicate.errors import KILLED
from replicate.matrix.local import SIGNALS, Ended, LocalLauncher, Progress, stoppable, tail


def ends(launcher: LocalLauncher, count: int) -> dict[str, Ended]:
    found: dict[str, Ended] = {}
    while len(found) < count:
        found |= {event.task: event for event in launcher.events(timeout=300) if isinstance(event, Ended)}
    return found


def test_the_event_describes_how_a_task_has_ended(launcher: LocalLauncher, tmp_path: Path) -> None:
    launcher.start("raises", "workers:fail", ("no luck",), os.environ, tmp_path / "log")
    launcher.start("killed", "workers:die", (signal.SIGKILL,), os.environ, tmp_path / "log2")
    launcher.start("leaves", "workers:leave", (7,), os.environ, tmp_path / "log3")
    found = ends(launcher, 3)
    described = {task: (str(event.value), event.kind, event.exit_code) for task, event in found.items()}
    assert described == {
        "raises": ("ValueError: no luck", None, None),
        "killed": ("killed by SIGKILL (out of memory, perhaps)", KILLED, -9),
        "leaves": ("exit code 7", None, 7),
    }
    assert "about to fail" in tail(tmp_path / "log")
    assert tail(tmp_path / "log", 1) == "ValueError: no luck"
    assert tail(tmp_path / "none") == ""


def test_no_process_is_left_after_stop(launcher: LocalLauncher, tmp_path: Path) -> None:
    def alive() -> bool:
        return Path(f"/proc/{pid}").exists()

    launcher.start("endless", "workers:endless", (tmp_path / "pid",), os.environ, tmp_path / "log")
    assert list(launcher.events(timeout=300)) == [Progress("endless", (0, 0))]
    pid = (tmp_path / "pid").read_text()
    assert alive()
    launcher.stop()
    deadline = time.monotonic() + 300  # its parent, the server, has yet to collect it
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive()


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
