"""Merge the run folders of several output folders into one, by run_id; nothing that is there is overwritten."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicate.errors import UsageError
from replicate.store.files import prepare_output_folder
from replicate.store.lease import acquire, remove_expired
from replicate.store.measurements import parse_predictions
from replicate.store.owner import LeaseWatch, Owner
from replicate.store.result import BadRecordError, Result, read_result
from replicate.store.run_folder import CURVE, LAYERS, PREDICTIONS, RunFolder, recorded

FILES = (CURVE, LAYERS, PREDICTIONS)  # copied with the record; checkpoints and logs are not
# What a run yielded. The rest of a record says when, where and by which code.
YIELD = ("status", "test_accuracy", "train_loss", "iteration", "init", "fingerprint")
NOT_IN_ALL = ("classes", "test_images", "weights_sha256")  # older records lack these


@dataclass(frozen=True, slots=True)
class RunCopy:
    """A run folder that holds a record, as read.

    Args:
        folder: where it was read.
        result: the record.
        files: name -> content of those of FILES that are there.
    """

    folder: RunFolder
    result: Result
    files: dict[str, bytes]

    def differences(self, other: "RunCopy") -> list[str]:
        """Name what both copies have and what differs between them."""
        pairs = {name: (getattr(self.result, name), getattr(other.result, name)) for name in (*YIELD, *NOT_IN_ALL)}
        pairs[CURVE] = (self.files.get(CURVE), other.files.get(CURVE))
        pairs[PREDICTIONS] = (self.predicted(), other.predicted())
        if self.result.sources == other.result.sources:  # other versions of the code may measure more of the layers
            pairs[LAYERS] = (self.files.get(LAYERS), other.files.get(LAYERS))
        return [name for name, pair in pairs.items() if pair[0] != pair[1] and (name in YIELD or None not in pair)]

    def predicted(self) -> object:
        """What the run predicts, to compare; probabilities are not, because a run may leave them out."""
        content = self.files.get(PREDICTIONS)
        try:
            found = parse_predictions(content) if content is not None else None
        except BadRecordError:
            return content
        return found and (found.classes.tolist(), found.labels_sha256)


@dataclass(slots=True)
class MergeReport:
    """What happened to each run.

    Args:
        copied: run_ids whose record was copied.
        present: run_ids whose record was there already, and is as good.
        conflicts: one line per run whose finished records differ; none of them was copied.
        unreadable: one line per file that cannot be read.
        in_progress: one line per run that was skipped because a process works on it.
    """

    copied: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    in_progress: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        named = {"conflict": self.conflicts, "not readable": self.unreadable, "in progress": self.in_progress}
        yield from (f"{problem}: {line}" for problem, lines in named.items() for line in lines)
        if self.in_progress:
            yield "Runs in progress are skipped; run the command again to copy them."
        yield (
            f"{len(self.copied)} run{'s' * (len(self.copied) != 1)} copied, {len(self.present)} there already, "
            f"{len(self.conflicts)} in conflict, {len(self.unreadable)} not readable, "
            f"{len(self.in_progress)} in progress"
        )


def merge(sources: Sequence[Path], out: Path) -> MergeReport:
    """Copy record, curve, layers and predictions of every run in these output folders into another output folder.

    A finished record is preferred to an error, and an error to nothing. If finished records of a run contradict each
    other, none is copied, and what `out` has is kept. Each run is written under its lease, and runs in progress are
    skipped.

    Args:
        sources: output folders; they are only read.
        out: output folder; it is created.

    Raises:
        UsageError: a source is no output folder or is `out` itself, or `out` cannot be written or holds a link.
        OSError: `out` is full, or out of reach.
    """
    folders: dict[str, list[RunFolder]] = {}
    for source in dict.fromkeys(sources):
        if not (source / "runs").is_dir():
            raise UsageError(f"{source} is no output folder: there is no {source / 'runs'}")
        if source.resolve() == out.resolve():
            raise UsageError(f"{source} is the folder to collect into; name only the others")
        for folder in recorded(source):
            folders.setdefault(folder.run_id, []).append(folder)
    prepare_output_folder(out, folders)
    report, watch = MergeReport(), LeaseWatch()
    for run_id in sorted(folders):
        _merge_run(folders[run_id], RunFolder(out / "runs" / run_id), report, watch)
    return report


def _merge_run(folders: Iterable[RunFolder], target: RunFolder, report: MergeReport, watch: LeaseWatch) -> None:
    found = [copy for folder in folders if (copy := _read(folder, report, watch)) is not None]
    if not found:
        return
    info = watch.look(target)
    if info is not None and info.expired:
        info = remove_expired(target, info)
    lease = acquire(target, Owner("collect", found[0].result.run.iterations)) if info is None else None
    if lease is None and info is not None and info.problem:
        report.unreadable.append(f"{target.path}: {info.problem}")
        return
    if lease is None:
        report.in_progress.append(f"{target.path} ({info.holder if info else 'another process'})")
        return
    with lease:
        present = _read(target, report)
        if present is None and os.path.lexists(target.result):
            return  # it cannot be read, as was reported, and is somebody's file nevertheless
        finished = [copy for copy in (present, *found) if copy is not None and copy.result.final]
        for other in finished[1:]:
            if differing := finished[0].differences(other):
                paths = f"{finished[0].folder.path} and {other.folder.path}"
                report.conflicts.append(f"{target.run_id}: {paths} differ in {', '.join(differing)}")
                return
        if present is not None and (present.result.final or not finished):
            report.present.append(target.run_id)
            return
        # the first one, or one with probabilities
        best = max(finished or found, key=lambda copy: len(copy.files.get(PREDICTIONS, b"")))
        for name in FILES:
            if name in best.files:
                lease.write(name, best.files[name])
            else:
                lease.remove(name)  # of a failed attempt
        lease.write_result(best.result)  # last: where there is a record, the rest is there
        report.copied.append(target.run_id)


def _read(folder: RunFolder, report: MergeReport, watch: LeaseWatch | None = None) -> RunCopy | None:
    """Read a run's folder; None if there is no record, or none that can be used.

    Args:
        folder: of the run.
        report: the reason is added to it.
        watch: finds out whether the run is in progress; None: its lease is ours.
    """
    try:
        # No link is followed: it could have any file of this machine copied into results that are passed on.
        result = read_result(folder.result)
        info = watch.look(folder) if watch and not result.final else None
        if info is not None and not info.expired:
            report.in_progress.append(f"{folder.path} ({info.holder})")
            return None
        there = [name for name in FILES if os.path.lexists(folder.path / name)]
        return RunCopy(folder, result, {name: folder.read(name) for name in there})
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        report.unreadable.append(str(error))
    except OSError as error:
        report.unreadable.append(f"{error.filename or folder.path}: {error.strerror}")
    return None
