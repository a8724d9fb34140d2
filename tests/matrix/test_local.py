"""The launcher, with real processes."""

import os
import signal
from pathlib import Path

import pytest
from slurm_cluster import wait

from replicate.errors import KILLED
from replicate.matrix.local import SIGNALS, LocalLauncher, Progress, stoppable, tail


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
