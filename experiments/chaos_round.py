"""One round of chaos.py: the schedulers that work in a folder, and the faults that hit them."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chaos_files import DAMAGES, FILES, content_of
from chaos_worker import LOG, finished

from replicate import provenance
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.lease import acquire
from replicate.store.owner import Owner, parse_owner
from replicate.store.run_folder import OWNER, RunFolder, collect

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP, "hangup": signal.SIGHUP}
# Relative frequencies. Faults that end a scheduler are rarer, because each costs the seconds of a new start.
FAULTS = {
    "kill_worker": 5, "kill_scheduler": 2, "kill_all": 1, "terminate_worker": 3, "terminate_scheduler": 1,
    "stop_worker": 3, "stop_scheduler": 2, "hangup_scheduler": 1, "second_scheduler": 2, "full_disk": 3,
    "foreign_lease": 3, "edited_code": 2,
    "damage_result": 2, "damage_checkpoint": 4, "damage_claim": 2, "damage_curve": 2,
    "flip_result": 2, "flip_checkpoint": 6, "flip_claim": 2, "flip_curve": 2, "flip_layers": 2, "flip_predictions": 2,
    "pipe_result": 1, "pipe_checkpoint": 2, "pipe_claim": 2, "pipe_log": 2,
}  # fmt: skip


class Round:
    """An output folder, the schedulers that work in it, and the faults that hit them.

    Args:
        folder: folder of the round.
        command: words of `replicate matrix`, without --out.
        complete: the complete files MEASURED of each of its runs.
        rng: chooses the faults.
        kinds: some of FAULTS; empty: all.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        complete: Mapping[Run, Sequence[bytes]],
        rng: random.Random,
        kinds: Sequence[str] = (),
    ) -> None:
        self.out, self.log = folder / "out", folder / "log"
        self.log.mkdir(parents=True)
        self.command, self.runs, self.rng, self.kinds = command, tuple(complete), rng, list(kinds or FAULTS)
        self.complete = {run.run_id: files for run, files in complete.items()}
        self.code = folder / "code" / "replicate"  # a copy that can be edited
        shutil.copytree(provenance.PACKAGE, self.code)
        self.editions = [provenance.sources(self.code)]  # the digest of each
        self.schedulers: list[subprocess.Popen[bytes]] = []
        self.paused: list[tuple[float, int]] = []  # when to continue which process
        self.faults: Counter[str] = Counter()
        self.destroyed: Counter[str] = Counter()  # finished records, by run_id
        self.flipped: set[str] = set()  # runs whose predictions have a wrong bit

    def start(self) -> subprocess.Popen[bytes]:
        """Start a scheduler, in a session of its own."""
        environment = {**os.environ, LOG: str(self.log), "PYTHONPATH": f"{self.code.parent}:{ROOT / 'experiments'}"}
        code = "import sys, chaos_worker; sys.exit(chaos_worker.scheduler_process(sys.argv[1:]))"
        with (self.log / "schedulers.txt").open("ab") as output:
            words = [sys.executable, "-P", "-c", code, *self.command, "--out", str(self.out)]
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
        way, _, target = kind.partition("_")
        if way in DAMAGES:
            return self._damage(target, DAMAGES[way])
        acts = {
            "second_scheduler": self._start_another, "kill_all": self._kill_all, "full_disk": self._fill_disk,
            "foreign_lease": self._hold_lease, "edited_code": self._edit_code,
        }  # fmt: skip
        return acts[kind]() if kind in acts else self._send_signal(way, target)

    def _send_signal(self, action: str, target: str) -> bool:
        pid = self.worker() if target == "worker" else self.scheduler()
        if pid is None or not _kill(pid, SIGNALS[action]):
            return False
        if action == "stop":
            self.paused.append((time.monotonic() + self.rng.uniform(0.5, 4), pid))
        return True

    def _start_another(self) -> bool:
        return len(self.schedulers) < 3 and bool(self.start())

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

    def _hold_lease(self) -> bool:
        """Hold the lease of a run that nobody works on, as a machine does that then loses its power."""
        run = self.rng.choice(self.unfinished() or self.runs)
        return acquire(RunFolder.of(self.out, run), Owner("elsewhere", 1, place="another machine")) is not None

    def _edit_code(self) -> bool:
        """Edit the code while schedulers and workers run and start."""
        original = (provenance.PACKAGE / "training" / "train.py").read_text()
        write_atomically(self.code / "training" / "train.py", f"{original}\nEDITION = {len(self.editions)}\n")
        self.editions.append(provenance.sources(self.code))
        return True

    def _damage(self, name: str, damage: Callable[[Path, random.Random], bool]) -> bool:
        """Damage a file of a run, in place."""
        path = self.file(FILES[name])
        if path is None:
            return False
        if name == "predictions":
            self.flipped.add(path.parent.name)
        if name not in ("curve", "layers", "result"):
            return damage(path, self.rng)
        owners = [parse_owner(content_of(one)) for one in path.parent.glob(f"claim/*/{OWNER}")]
        if None in owners:
            return False
        # Stopped, so that it does not finish the run between our look at the file and the damage.
        workers = [one.pid for one in owners if one is not None and one.alive and _kill(one.pid, signal.SIGSTOP)]
        try:
            if name != "result":  # nothing would write it again if it is complete
                return content_of(path) not in self.complete[path.parent.name] and damage(path, self.rng)
            was_finished = finished(path)
            damaged = damage(path, self.rng)
            self.destroyed[path.parent.name] += damaged and was_finished
            return damaged
        finally:
            for pid in workers:
                _kill(pid, signal.SIGCONT)

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

    def mislabelled(self) -> int:
        """Count the results that do not name the code that their training had loaded."""
        words = (word for run in self.runs for word in content_of(self.log / run.run_id).decode().split())
        labels = [word.split(":") for word in words if word.startswith("edition:")]
        return sum(self.editions[int(edition)] != sources for _, edition, sources in labels)


def _kill(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
