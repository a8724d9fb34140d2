"""One round of chaos.py: the schedulers that work in a folder, and the faults that hit them."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos_worker import LOG, finished

from replicate.run import Run
from replicate.store.owner import parse_owner
from replicate.store.run_folder import OWNER, collect

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP}
FILES = {
    "result": "result.json", "checkpoint": "checkpoint.pt", "claim": f"claim/*/{OWNER}", "curve": "curve.csv"
}  # fmt: skip
# Relative frequencies. Faults that end a scheduler are rarer, because each costs the seconds of a new start.
FAULTS = {
    "kill_worker": 5, "kill_scheduler": 2, "kill_all": 1, "terminate_worker": 3, "terminate_scheduler": 1,
    "stop_worker": 3, "stop_scheduler": 2, "second_scheduler": 2, "full_disk": 3, "damage_result": 2,
    "damage_checkpoint": 4, "damage_claim": 2, "damage_curve": 2,
}  # fmt: skip


class Round:
    """An output folder, the schedulers that work in it, and the faults that hit them.

    Args:
        folder: folder of the round.
        command: words of `replicate matrix`, without --out.
        curves: the complete curve.csv of each of its runs.
        rng: chooses the faults.
        kinds: some of FAULTS; empty: all.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        curves: Mapping[Run, bytes],
        rng: random.Random,
        kinds: Sequence[str] = (),
    ) -> None:
        self.out, self.log = folder / "out", folder / "log"
        self.log.mkdir(parents=True)
        self.command, self.runs, self.rng, self.kinds = command, tuple(curves), rng, list(kinds or FAULTS)
        self.curves = {run.run_id: curve for run, curve in curves.items()}
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self.paused: list[tuple[float, int]] = []  # when to continue which process
        self.faults: Counter[str] = Counter()
        self.destroyed: Counter[str] = Counter()  # finished records, by run_id

    def start(self) -> subprocess.Popen[bytes]:
        """Start a scheduler, in a session of its own."""
        environment = {**os.environ, LOG: str(self.log), "PYTHONPATH": f"{ROOT}:{ROOT / 'experiments'}"}
        code = "import sys, chaos_worker; sys.exit(chaos_worker.scheduler_process(sys.argv[1:]))"
        with (self.log / "schedulers.txt").open("ab") as output:
            words = [sys.executable, "-c", code, *self.command, "--out", str(self.out)]
            process = subprocess.Popen(words, env=environment, stdout=output, stderr=output, start_new_session=True)
        self.schedulers.append(process)
        return process

    def unfinished(self) -> list[Run]:
        """Runs without a finished record."""
        found = collect(self.out, self.runs).results
        return [run for run in self.runs if run.run_id not in found or not found[run.run_id].final]

    def inject(self, faults: int, interval: float, until: float) -> None:
        """Inject faults until there are enough, all runs are finished, or the time is up.

        Args:
            faults: how many.
            interval: mean seconds between two faults.
            until: end of the time, by time.monotonic().
        """
        while self.faults.total() < faults and time.monotonic() < until and self.unfinished():
            self.schedulers = [one for one in self.schedulers if one.poll() is None]
            if not self.schedulers:
                self.start()
            time.sleep(self.rng.uniform(0.2, 2.0) * interval)
            kind = self.rng.choices(self.kinds, [FAULTS[kind] for kind in self.kinds])[0]
            if self.strike(kind):
                self.faults[kind.replace("_", " ")] += 1
            self.resume(time.monotonic())
        self.resume(float("inf"))

    def resume(self, now: float) -> None:
        """Continue the processes that have been stopped for long enough."""
        for end, pid in [one for one in self.paused if one[0] <= now]:
            self.paused.remove((end, pid))
            _kill(pid, signal.SIGCONT)

    def worker(self) -> int | None:
        """Pick a process that trains; None: there is none."""
        found = [parse_owner(content_of(path)) for path in self.out.glob(f"runs/*/claim/*/{OWNER}")]
        alive = [one.pid for one in found if one is not None and one.alive]
        return self.rng.choice(alive) if alive else None

    def scheduler(self) -> int | None:
        """Pick a scheduler while there is a training to disturb; otherwise the faults would only hit start-ups."""
        alive = [one.pid for one in self.schedulers if one.poll() is None]
        return self.rng.choice(alive) if alive and self.worker() is not None else None

    def file(self, pattern: str) -> Path | None:
        """Pick a file of a run."""
        found = sorted(self.out.glob(f"runs/*/{pattern}"))
        return self.rng.choice(found) if found else None

    def strike(self, kind: str) -> bool:
        """Let a fault happen, one of FAULTS; return whether there was anything to hit."""
        match kind.split("_", 1):
            case ["second", _]:
                return len(self.schedulers) < 3 and bool(self.start())
            case ["full", _]:
                return self._fill_disk()
            case ["kill", "all"]:
                return self._kill_all()
            case ["damage", name]:
                return self._damage(name)
        action, target = kind.split("_")
        pid = self.worker() if target == "worker" else self.scheduler()
        if pid is None or not _kill(pid, SIGNALS[action]):
            return False
        if action == "stop":
            self.paused.append((time.monotonic() + self.rng.uniform(0.5, 4), pid))
        return True

    def _kill_all(self) -> bool:
        if self.scheduler() is None:
            return False
        for process in self.schedulers:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return True

    def _fill_disk(self) -> bool:
        """Limit the size of a worker's files from now on, which has the effect of a full disk."""
        if (pid := self.worker()) is None:
            return False
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (self.rng.choice([0, 1000, 20_000]), hard))
        except ProcessLookupError:
            return False
        return True

    def _damage(self, name: str) -> bool:
        """Truncate a file or fill it with garbage, in place, as a crash of the machine may."""
        path = self.file(FILES[name])
        if path is None:
            return False
        if name not in ("curve", "result"):
            return self._overwrite(path)
        owners = [parse_owner(content_of(one)) for one in path.parent.glob(f"claim/*/{OWNER}")]
        if None in owners:
            return False
        # Stopped, so that it does not finish the run between our look at the file and the damage.
        workers = [one.pid for one in owners if one is not None and one.alive and _kill(one.pid, signal.SIGSTOP)]
        try:
            if name == "curve":  # nothing writes a complete curve again
                return content_of(path) != self.curves[path.parent.name] and self._overwrite(path)
            was_finished = finished(path)
            damaged = self._overwrite(path)
            self.destroyed[path.parent.name] += damaged and was_finished
            return damaged
        finally:
            for pid in workers:
                _kill(pid, signal.SIGCONT)

    def _overwrite(self, path: Path) -> bool:
        try:
            if not (content := path.read_bytes()):
                return False
            truncated = content[: self.rng.randrange(len(content))]
            path.write_bytes(self.rng.choice([truncated, b"", self.rng.randbytes(len(content))]))
        except OSError:  # it has been removed meanwhile
            return False
        return True

    def finish(self) -> None:
        """Wait for the schedulers to end. If runs are unfinished, call the command once more, undisturbed."""
        for process in self.schedulers:
            process.wait(1800)
        if not self.unfinished():
            return
        if (code := self.start().wait(1800)) != 0:
            print(f"the last call of a round ended with exit code {code}; see {self.log / 'schedulers.txt'}")

    def doubled(self) -> int:
        """Count the trainings that should not have happened."""
        count = 0
        for run in self.runs:
            words = Counter(content_of(self.log / run.run_id).decode().split())
            extra = words["finished"] - 1 - self.destroyed[run.run_id]
            count += words["concurrent"] + words["repeated"] + max(0, extra)
        return count


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def content_of(path: Path) -> bytes:
    """Read a file; empty if there is none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
