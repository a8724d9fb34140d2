"""The storm of chaos.py: schedulers at work in a folder, the faults that hit them, the notes of their trainings."""

import fcntl
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from replicate.matrix import scheduler
from replicate.options import Options
from replicate.run import Run
from replicate.store import lease, watch
from replicate.store.owner import parse_owner
from replicate.store.result import Attempt, BadRecordError, Result, read_result
from replicate.store.run_folder import collect
from replicate.training.logger import Logger

LOG = "CHAOS_LOG"  # variable that names the folder where the trainings of a round leave their notes
ROOT = Path(__file__).resolve().parents[1]
if LOG in os.environ:  # in the storm's own processes: a claim that was made unreadable shall not be watched for minutes
    lease.HEARTBEAT_SECONDS, watch.STALE_SECONDS = 0.5, 5.0


def train(
    run: Run, options: Options, held: lease.Lease, loggers: Sequence[Logger], history: Sequence[Attempt]
) -> Result | None:
    """Train a run, and note when it began and finished, and whether it should not have begun."""
    from replicate.training.train import train_run

    log = Path(os.environ[LOG])
    note = partial(_note, log / run.run_id)
    with (log / f"{run.run_id}.lock").open("a") as file:  # held until this process ends, however it does
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("beside")
        if _finished(held.folder.result):
            note("again")
        note("began")
        result = train_run(run, options, held, loggers, history)
        if result is not None and result.final:
            note("finished")
    return result


def _note(path: Path, word: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, f"{word}\n".encode())
    os.close(handle)


def _finished(path: Path) -> bool:
    try:
        return read_result(path).final
    except (OSError, BadRecordError):
        return False


class Storm:
    """A round: an output folder, the schedulers that work in it, and the faults that hit them."""

    def __init__(
        self, folder: Path, command: list[str], runs: tuple[Run, ...], dice: random.Random, kinds: Sequence[str] = ()
    ) -> None:
        self.out, self.log = folder / "out", folder / "log"
        self.log.mkdir(parents=True)
        self.command, self.runs, self.dice, self.kinds = command, runs, dice, list(kinds or FAULTS)
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self.asleep: list[tuple[float, int]] = []
        self.faults: Counter[str] = Counter()
        self.destroyed: Counter[str] = Counter()

    def start(self) -> subprocess.Popen[bytes]:
        """Start a scheduler, in a session of its own."""
        environment = {**os.environ, LOG: str(self.log), "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
        code = "import sys, storm; sys.exit(storm.scheduler_process(sys.argv[1:]))"
        with (self.log / "schedulers.txt").open("ab") as output:
            words = [sys.executable, "-c", code, *self.command, "--out", str(self.out)]
            process = subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)
        self.schedulers.append(process)
        return process

    def unfinished(self) -> list[Run]:
        """Runs without a finished record."""
        found = collect(self.out, self.runs).results
        return [run for run in self.runs if run.run_id not in found or not found[run.run_id].final]

    def rage(self, faults: int, interval: float, until: float) -> None:
        """Let faults happen until so many have, all runs are finished, or the time is up."""
        while self.faults.total() < faults and time.monotonic() < until and self.unfinished():
            self.schedulers = [one for one in self.schedulers if one.poll() is None]
            if not self.schedulers:
                self.start()
            time.sleep(self.dice.uniform(0.2, 2.0) * interval)
            kind = self.dice.choices(self.kinds, [FAULTS[kind] for kind in self.kinds])[0]
            if getattr(self, f"_{kind}")():
                self.faults[kind.replace("_", " ")] += 1
            self.wake(time.monotonic())
        self.wake(float("inf"))

    def wake(self, now: float) -> None:
        """Continue what has been stopped for long enough."""
        for end, pid in [one for one in self.asleep if one[0] <= now]:
            self.asleep.remove((end, pid))
            _kill(pid, signal.SIGCONT)

    def worker(self) -> int | None:
        """Pick a process that trains, or None where there is none right now."""
        found = [parse_owner(content_of(path)) for path in self.out.glob(f"runs/*/claim/*/{lease.OWNER}")]
        alive = [one.pid for one in found if one is not None and one.alive]
        return self.dice.choice(alive) if alive else None

    def scheduler(self) -> int | None:
        """Pick a scheduler while there is a training to disturb: else the storm would hit nothing but starts."""
        alive = [one.pid for one in self.schedulers if one.poll() is None]
        return self.dice.choice(alive) if alive and self.worker() is not None else None

    def file(self, pattern: str) -> Path | None:
        """Pick a file of a run."""
        found = sorted(self.out.glob(f"runs/*/{pattern}"))
        return self.dice.choice(found) if found else None

    def _kill_worker(self) -> bool:
        return _kill(self.worker(), signal.SIGKILL)

    def _kill_scheduler(self) -> bool:
        return _kill(self.scheduler(), signal.SIGKILL)

    def _kill_all(self) -> bool:
        if self.scheduler() is None:
            return False
        for process in self.schedulers:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return True

    def _terminate_worker(self) -> bool:
        return _kill(self.worker(), signal.SIGTERM)

    def _terminate_scheduler(self) -> bool:
        return _kill(self.scheduler(), signal.SIGTERM)

    def _stop_worker(self) -> bool:
        return self._sleep(self.worker())

    def _stop_scheduler(self) -> bool:
        return self._sleep(self.scheduler())

    def _sleep(self, pid: int | None) -> bool:
        slept = _kill(pid, signal.SIGSTOP)
        if pid is not None and slept:
            self.asleep.append((time.monotonic() + self.dice.uniform(0.5, 4), pid))
        return slept

    def _second_scheduler(self) -> bool:
        return len(self.schedulers) < 3 and bool(self.start())

    def _full_disk(self) -> bool:
        """No file of a worker's may grow beyond so many bytes: what a full disk does, from one moment to the next."""
        if (pid := self.worker()) is None:
            return False
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.dice.choice([0, 1000, 20_000]), hard))
        except ProcessLookupError:
            return False
        return True

    def _damage_result(self) -> bool:
        path = self.file("result.json")
        finished = path is not None and _finished(path)
        damaged = self._damage(path)
        if path is not None and finished and damaged:
            self.destroyed[path.parent.name] += 1
        return damaged

    def _damage_checkpoint(self) -> bool:
        return self._damage(self.file("checkpoint.pt"))

    def _damage_claim(self) -> bool:
        return self._damage(self.file(f"claim/*/{lease.OWNER}"))

    def _damage_curve(self) -> bool:
        path = self.file("curve.csv")
        return path is not None and not _finished(path.with_name("result.json")) and self._damage(path)

    def _damage(self, path: Path | None) -> bool:
        """Tear a file or fill it with garbage, in place, as a crash of the machine may."""
        try:
            if path is None or not (content := path.read_bytes()):
                return False
            torn = content[: self.dice.randrange(len(content))]
            path.write_bytes(self.dice.choice([torn, b"", self.dice.randbytes(len(content))]))
        except OSError:  # it went its way meanwhile
            return False
        return True

    def finish(self) -> None:
        """Let the schedulers come to their end, and call once more in peace where that leaves something to do."""
        for process in self.schedulers:
            process.wait(1800)
        if not self.unfinished():
            return
        if (code := self.start().wait(1800)) != 0:
            print(f"the last call of a round ended with exit code {code}; see {self.log / 'schedulers.txt'}")

    def doubled(self) -> int:
        """Trainings that should not have been."""
        count = 0
        for run in self.runs:
            words = Counter(content_of(self.log / run.run_id).decode().split())
            extra = words["finished"] - 1 - self.destroyed[run.run_id]
            count += words["beside"] + words["again"] + max(0, extra)
        return count


# How often each: those that end a scheduler cost a start of torch, and a storm that leaves no time shows nothing.
FAULTS = {
    "kill_worker": 5, "kill_scheduler": 2, "kill_all": 1, "terminate_worker": 3, "terminate_scheduler": 1,
    "stop_worker": 3, "stop_scheduler": 2, "second_scheduler": 2, "full_disk": 3, "damage_result": 2,
    "damage_checkpoint": 4, "damage_claim": 2, "damage_curve": 2,
}  # fmt: skip


def scheduler_process(words: list[str]) -> int:
    """Carry out a command line with `train` for a worker."""
    from replicate import cli

    scheduler.run_all = partial(scheduler.run_all, train="storm:train")  # type: ignore[assignment]
    return cli.main(words)


def _kill(pid: int | None, number: signal.Signals) -> bool:
    try:
        if pid is not None:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    return pid is not None


def content_of(path: Path) -> bytes:
    """Read a file; empty where there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
