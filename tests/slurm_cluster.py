"""A SLURM cluster of two nodes on this machine, for the tests: daemons, ports, keys and state in one folder."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch", "squeue", "scontrol", "scancel", "srun")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_min_interval=100000
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Gres=gpu:1
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """A cluster. Use as a context manager: no daemon and no job outlives it.

    Args:
        folder: for everything; its name must be short enough for a socket's.

    Raises:
        pytest.skip.Exception: from `with`: SLURM is not installed or does not start here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = str(folder / "slurm.conf")
        self._waiting: dict[str, float] = {}  # jobs that were put back into the queue, and since when
        self._lost: list[str] = []
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        if missing := [name for name in PROGRAMS if _find(name) is None]:
            pytest.skip(f"no SLURM on this machine: there is no {missing}")
        with contextlib.ExitStack() as stack:
            stack.callback(self._end)
            try:
                self._begin()
            except Exception as error:  # whatever a container lacks
                pytest.skip(f"SLURM is installed and does not start here: {error!r}")
            stack.pop_all()
        return self

    def _begin(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        text = CONFIG.format(host=socket.gethostname(), ports=_ports(3), user=getpass.getuser(), folder=self.folder)
        Path(self.config).write_text(text)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        subprocess.run([_find("mungekey"), "--create", f"--keyfile={self.folder}/munge.key"], check=True)
        paths = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *paths)
        wait((self.folder / "munge.socket").exists, "munged", 60)
        self._start("slurmctld", "-D")
        self.node_up("n1")
        self.node_up("n2")
        wait(self._ready, "two idle nodes", 60)
        # Jobs call srun, which has needs of its own.
        ran = self.folder / "ran"
        self.call("sbatch", "--nodes=2", "--output=/dev/null", "--chdir=/", f"--wrap=srun touch {ran}")
        wait(lambda: ran.exists() and not self.jobs(), "a job", 60)

    def _ready(self) -> bool:
        for name, daemon in self._daemons.items():
            if (code := daemon.poll()) is not None:
                raise RuntimeError(f"{name} ended with exit code {code}")
        nodes = self.call("sinfo", "-h", "-N", "-p", "low", "-o", "%T", check=False)
        return nodes.split() == ["idle"] * 2

    def __exit__(self, *_: object) -> None:
        self.call("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full", check=False)
        self.call("scancel", "--user", getpass.getuser(), check=False)
        self._end()

    def call(self, *command: str, check: bool = True) -> str:
        """Run a program of SLURM, and return what it prints."""
        environment = {**os.environ, "SLURM_CONF": self.config}
        return subprocess.run(command, env=environment, check=check, capture_output=True, text=True, timeout=60).stdout

    def jobs(self, shown: str = "%A") -> list[str]:
        """Describe each job in the queue."""
        return self.call("squeue", "-h", "-r", "-o", shown).splitlines()

    def node_up(self, name: str) -> None:
        """Start a node."""
        self._start("slurmd", "-D", "-N", name, key=name)

    def node_lost(self, name: str) -> None:
        """Lose a node as if its plug were pulled: its daemon and all that it runs are killed."""
        self._lost.append(name)
        self._daemons.pop(name).kill()
        for step in psutil.process_iter(["cmdline"]):
            line = " ".join(step.info["cmdline"] or [])
            if "slurmstepd" in line or f"{self.folder}/spool-{name}" in line:
                family = [step, *step.children(recursive=True)]
                if any(_variable(process, "SLURMD_NODENAME") == name for process in family):
                    for process in family:
                        _kill(process)
        self.call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def restore(self) -> None:
        """Empty the queue, and bring lost nodes back."""
        self.call("scancel", "--quiet", *(self.jobs() or ["0"]), check=False)
        wait(lambda: not self.jobs(), "an empty queue")
        while self._lost:
            name = self._lost.pop()
            self.node_up(name)
            # It fails if the node has already come back by itself.
            self.call("scontrol", "update", f"nodename={name}", "state=resume", check=False)

    def hurry(self) -> None:
        """Start the jobs that were put back into the queue: SLURM itself lets them wait for two minutes."""
        lines = [line.split(maxsplit=1) for line in self.jobs("%A %r")]
        waiting = {number for number, reason in lines if reason == "BeginTime"}
        self._waiting = {number: self._waiting.get(number, time.monotonic()) for number in waiting}
        for number, since in self._waiting.items():
            if time.monotonic() - since > 2:  # a node refuses a job that it killed in this very second
                self.call("scontrol", "update", f"jobid={number}", "starttime=now", check=False)

    def _start(self, name: str, *arguments: str, key: str | None = None) -> None:
        program = _find(name)
        assert program is not None
        environment = {**os.environ, "SLURM_CONF": self.config}
        with (self.folder / f"{key or name}.out").open("ab") as output:
            self._daemons[key or name] = subprocess.Popen(
                [program, *arguments], env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def _end(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()


def wait(true: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain for: {what}")
        time.sleep(0.1)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def kill_job(number: str) -> None:
    """Kill all processes of a job at once; `scancel` asks first, whatever signal it is given."""
    for process in psutil.process_iter():
        if _variable(process, "SLURM_JOB_ID") == number:
            _kill(process)


def _variable(process: psutil.Process, name: str) -> str | None:
    with contextlib.suppress(psutil.Error):
        return process.environ().get(name)
    return None


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.kill()
