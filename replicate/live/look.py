"""What an output folder tells of runs, looked at again and again: records, and the heartbeats of those who work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicate.live.board import Progress
from replicate.run import Run
from replicate.store.owner import Owner
from replicate.store.result import BadRecordError, Result, read_result
from replicate.store.run_folder import RunFolder
from replicate.store.watch import LeaseWatch


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has shown.

    Args:
        results: run_id -> record.
        progress: run_id -> how far it is, of the runs that some process holds a lease of.
        bad: number of records that cannot be read.
        expired: run_id -> token, of the leases whose owners are dead.
    """

    results: Mapping[str, Result]
    progress: Mapping[str, Progress]
    bad: int
    expired: Mapping[str, str] = field(default_factory=dict)


class Looker:
    """Looks at the folders of runs; a record is read once, and again when its file is another.

    Args:
        out: the output folder.
        runs: that were asked for.
    """

    def __init__(self, out: Path, runs: Sequence[Run]) -> None:
        self._folders = {run.run_id: RunFolder.of(out, run) for run in runs}
        self._runs = {run.run_id: run for run in runs}
        self._watch = LeaseWatch()
        self._known: dict[str, tuple[object, Result | None]] = {}  # file -> its record; None: it is none

    def look(self) -> Seen:
        """Look at every run."""
        progress: dict[str, Progress] = {}
        expired: dict[str, str] = {}
        for name, folder in self._folders.items():
            _, before = self._known.get(name, (None, None))
            if before is None or not before.final:
                # Before the record: a run that ends in between must not seem to be neither done nor under way.
                info = self._watch.look(folder)
                if info is not None and info.expired:
                    expired[name] = info.token
                elif info is not None and info.owner is not None:
                    progress[name] = _progress(self._runs[name], info.owner, info.holder)
            self._read(name, folder.result)
        results = {name: result for name, (_, result) in self._known.items() if result is not None}
        return Seen(results, progress, len(self._known) - len(results), expired)

    def _read(self, name: str, path: Path) -> None:
        try:
            status = path.stat()
        except OSError:
            self._known.pop(name, None)
            return
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        if name in self._known and self._known[name][0] == mark:
            return
        try:
            self._known[name] = mark, read_result(path)
        except (BadRecordError, OSError):
            self._known[name] = mark, None


def _progress(run: Run, owner: Owner, holder: str) -> Progress:
    """What a heartbeat says; the file may hold more iterations than the run has."""
    return Progress(min(owner.iteration, run.iterations), owner.test_accuracy, owner.device, holder)
