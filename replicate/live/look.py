"""What an output folder tells of runs, looked at again and again: records, and the heartbeats of those who work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicate.live.board import Progress
from replicate.matrix.claims import Watch
from replicate.matrix.owner import Owner
from replicate.results import BadRecordError, Result, read
from replicate.run import Run


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look has shown.

    Args:
        results: run_id -> record.
        progress: run_id -> how far it is, of the runs that some process holds a claim of.
        bad: number of records that cannot be read.
    """

    results: Mapping[str, Result]
    progress: Mapping[str, Progress]
    bad: int


class Looker:
    """Looks at the folders of runs; a record is read once, and again when its file is another.

    Args:
        out: the output folder.
        runs: that were asked for.
    """

    def __init__(self, out: Path, runs: Sequence[Run]) -> None:
        self._folders = {run.run_id: out / "runs" / run.run_id for run in runs}
        self._runs = {run.run_id: run for run in runs}
        self._watch = Watch()
        self._known: dict[str, tuple[object, Result | None]] = {}  # file -> its record; None: it is none

    def look(self) -> Seen:
        """Look at every run."""
        progress: dict[str, Progress] = {}
        for name, folder in self._folders.items():
            _, before = self._known.get(name, (None, None))
            if before is None or not before.final:
                # Before the record: a run that ends in between must not seem to be neither done nor under way.
                claim = self._watch.look(folder)
                if claim is not None and claim.owner is not None and not claim.stale:
                    progress[name] = _progress(self._runs[name], claim.owner, claim.holder)
            self._read(name, folder / "result.json")
        results = {name: result for name, (_, result) in self._known.items() if result is not None}
        return Seen(results, progress, len(self._known) - len(results))

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
            self._known[name] = mark, read(path)
        except (BadRecordError, OSError):
            self._known[name] = mark, None


def _progress(run: Run, owner: Owner, holder: str) -> Progress:
    """What a heartbeat tells, within bounds: the file may hold anything."""
    accuracy = owner.test_accuracy
    sane = accuracy is not None and 0 <= accuracy <= 100
    return Progress(min(max(owner.iteration, 0), run.iterations), accuracy if sane else None, owner.device, holder)
