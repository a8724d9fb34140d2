"""A GPU slot's folder, its state on disk, and the processes that it starts. See gpu_slot.py."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from gpu_slot_pack import write
from gpu_slot_plans import PLANS, Plan

END_SECONDS = 25  # kept for the end: stop what runs, let it save its state, pack
GRACE_SECONDS = 12  # between asking a process to end and ending it
MPS_TOOLS = "/usr/local/nvidia/bin"  # where containers have the tools of the driver


class Slot:
    """The state of a slot. Every change is written to JOB/state.json at once, which is always complete.

    Args:
        job: folder of the slot, which holds state.json.
    """

    def __init__(self, job: Path) -> None:
        self.job = job
        self.state: dict[str, Any] = json.loads((job / "state.json").read_text())
        self.options: dict[str, Any] = self.state["options"]
        # Tests replace Python by a program that answers as ours would.
        self.python = os.environ.get("GPU_SLOT_PYTHON", sys.executable)
        self.stopped = self.ending = False
        self._lock = threading.RLock()  # stages in the background write the state too

    @property
    def plan(self) -> Plan:
        """The chosen plan."""
        return PLANS[self.options["plan"]]

    @property
    def data(self) -> str:
        """Name of the data set."""
        return Path(self.options["archive"]).name.partition(".")[0]

    @property
    def left(self) -> float:
        """Seconds until the slot must start to end."""
        return 0.0 if self.stopped else max(0.0, self.options["deadline"] - time.time() - self.scaled(END_SECONDS))

    def scaled(self, seconds: float) -> float:
        """Scale a length of time, for rehearsals."""
        return seconds * float(self.options["scale"])

    def update(self, **values: Any) -> None:
        """Change the state."""
        with self._lock:
            self.state.update(values)
            write(self.job / "state.json", json.dumps(self.state, indent=1) + "\n")

    def stage(self, name: str, **values: Any) -> None:
        """Change the state of a stage."""
        with self._lock:
            stages = self.state["stages"]
            self.update(stages=stages | {name: stages.get(name, {}) | values})

    def note(self, sentence: str) -> None:
        """Add a sentence to the report."""
        with self._lock:
            self.update(notes=[*self.state.get("notes", []), sentence])

    def environment(self) -> dict[str, str]:
        """The environment of the processes that the slot starts."""
        path = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}{MPS_TOOLS}"
        modules = os.pathsep.join(filter(None, [str(self.job / "tree"), os.environ.get("PYTHONPATH")]))
        found = {**os.environ, "PATH": path, "PYTHONPATH": modules, "REPLICATE_CACHE": str(self.job / "cache")}
        if self.options["step"] == "compiled":
            found["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # each of the runs would start as many as there are cores
        return found | (self.mps_variables if self.state.get("recipe", {"mps": self.mps_works})["mps"] else {})

    @property
    def mps_works(self) -> bool:
        """Whether the stage `mps` succeeded."""
        return bool(self.state["stages"].get("mps", {}).get("status") == "done")

    @property
    def mps_variables(self) -> dict[str, str]:
        """Variables by which MPS is found, in a folder of the slot: a process without them uses the GPU without MPS."""
        return dict.fromkeys(("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"), str(self.job / "mps"))

    def start(self, log: str, words: list[str], environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start a program in a session of its own, which outlives this process; its output goes to JOB/logs.

        Raises:
            OSError: there is no such program.
        """
        folder = self.job / "logs"
        folder.mkdir(exist_ok=True)
        with (folder / f"{log}.txt").open("ab") as output:
            process = subprocess.Popen(words, cwd=self.job / "tree", env=environment or self.environment(),
                                       stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                       start_new_session=True)  # fmt: skip
        with self._lock:
            processes = {**self.state.get("processes", {}), str(process.pid): start_time(process.pid)}
            self.update(processes={pid: start for pid, start in processes.items() if is_running(pid, start)})
        return process

    def call(
        self, log: str, words: list[str], seconds: float, environment: dict[str, str] | None = None
    ) -> tuple[int | None, str]:
        """Start a program and wait for it, but not longer than a time limit, nor beyond the end of the slot.

        Args:
            log: name of the log in JOB/logs.
            words: the program and its arguments.
            seconds: the time limit, before scaling.
            environment: of the program; None: `environment`.

        Returns:
            Its exit code, None if its time was up; and the last lines of its output.
        """
        path = self.job / "logs" / f"{log}.txt"
        begin = path.stat().st_size if path.exists() else 0
        try:
            process = self.start(log, words, environment)
        except OSError as error:
            return 127, f"{words[0]}: {error.strerror}"
        end = time.monotonic() + self.scaled(seconds)
        while process.poll() is None and time.monotonic() < end and (self.ending or self.left > 0):
            time.sleep(0.05)
        code = process.poll()
        if code is None:
            self.terminate([process.pid], self.scaled(GRACE_SECONDS) / 4)
            process.wait()
        with path.open("rb") as file:
            file.seek(begin)
            return code, file.read().decode(errors="replace")[-4000:].strip()

    def replicate(self, log: str, words: list[str], seconds: float) -> tuple[int | None, str]:
        """Call replicate. Returns as `call`."""
        return self.call(log, [self.python, "-m", "replicate", *words], seconds)

    def bench(self, log: str, words: list[str], seconds: float) -> tuple[int | None, str]:
        """Call the benchmark. Returns as `call`."""
        return self.call(log, [self.python, "experiments/bench", *words], seconds)

    def terminate(self, pids: list[int], grace: float) -> None:
        """Ask processes to end; after `grace` seconds, kill them with everything that they have started."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + grace
        while time.monotonic() < end and any(start_time(pid) for pid in pids):
            time.sleep(0.05)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def end_processes(self) -> None:
        """End the running processes of this slot, including those that an earlier driver started."""
        known = self.state.get("processes", {})
        alive = [int(pid) for pid, start in known.items() if is_running(pid, start)]
        self.terminate(alive, self.scaled(GRACE_SECONDS))
        self.update(processes={})


def start_time(pid: int) -> str | None:
    """Start time of a process in ticks, which distinguishes it from a later one with the same number; None: gone."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else rest[18]


def is_running(pid: int | str, start: str | None) -> bool:
    """Whether the process with this number and start time is running. Without a start time, it had ended at once."""
    return start is not None and start_time(int(pid)) == start
