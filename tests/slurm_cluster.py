"""A SLURM cluster of two nodes on this machine, of this user's own: daemons, ports, keys and state in one folder."""

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

PROGRAMS = ("slurmctld", "slurmd", "munged", "mungekey", "sbatch", "squeue", "scontrol", "scancel", "srun")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=60
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_min_interval=100000
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 Gres=gpu:1
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class NoClusterError(Exception):
    """No cluster came up here, which says nothing about our code."""


def missing() -> list[str]:
    """Name the programs that a cluster needs and that are not installed."""
    return [name for name in PROGRAMS if _find(name) is None]


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """Use as a context manager: at its end no daemon and no job is left.

    Args:
        folder: for everything; its name must be short enough for a socket's.

    Raises:
        NoClusterError: from `with`: it does not start here. The message says what the daemons said.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.waiting: dict[str, float] = {}  # jobs that wait to be restarted, and since when
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        try:
            self._begin()
        except Exception as error:  # whatever a container lacks
            self._end()
            raise NoClusterError(f"{error!r}; {self._said()}") from error
        except BaseException:
            self._end()
            raise
        return self

    def _begin(self) -> None:
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.folder / "state").mkdir()
        text = CONFIG.format(host=socket.gethostname(), ports=_ports(3), user=getpass.getuser(), folder=self.folder)
        (self.folder / "slurm.conf").write_text(text)
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

    def _said(self) -> str:
        """The last line of each daemon's that tells of trouble."""
        logs = [*self.folder.glob("*.log"), *self.folder.glob("*.out")]
        found = []
        for path in sorted(logs):
            lines = path.read_text(errors="replace").splitlines()
            found += [f"{path.name}: {line}" for line in lines if re.search("error|fatal", line, re.IGNORECASE)][-1:]
        return "; ".join(found)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full", check=False)
        self.call("scancel", "--user", getpass.getuser(), check=False)
        self._end()

    def call(self, *command: str, check: bool = True) -> str:
        """Run a program of SLURM's, and return what it prints."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, env=environment, check=check, capture_output=True, text=True, timeout=60).stdout

    def jobs(self, shown: str = "%A") -> list[str]:
        """Tell of each job in the queue."""
        return self.call("squeue", "-h", "-r", "-o", shown).splitlines()

    def node_up(self, name: str) -> None:
        """Start a node."""
        self._start("slurmd", "-D", "-N", name, key=name)

    def node_lost(self, name: str) -> None:
        """Take a node away as by a pulled plug: its daemon and what it runs are killed."""
        self._daemons.pop(name).kill()
        spool = f"{self.folder}/spool-{name}".encode()
        for step in _processes(lambda line: b"slurmstepd" in line or spool in line):
            with_children = [step, *_descendants(step)]
            if runs_on(name, with_children):
                for pid in with_children:
                    _kill(pid)
        self.call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def _start(self, name: str, *arguments: str, key: str | None = None) -> None:
        program = _find(name)
        assert program is not None
        environment = {**os.environ, **self.environment}
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
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s in vain for: {what}")
        time.sleep(0.1)


def _ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _processes(chosen: Callable[[bytes], bool]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if chosen(path.read_bytes()):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def runs_on(name: str, pids: list[int]) -> bool:
    """Tell whether one of these processes is a job's on this node."""
    return any(_has(pid, f"SLURMD_NODENAME={name}") for pid in pids)


def kill_job(number: str) -> None:
    """Kill all processes of a job outright; `scancel` asks first, whatever signal it is given."""
    for pid in _processes(lambda line: True):
        if _has(pid, f"SLURM_JOB_ID={number}"):
            _kill(pid)


def _has(pid: int, variable: str) -> bool:
    try:
        return variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
