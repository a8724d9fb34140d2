"""Merge the run folders of several output folders into one, by run_id; nothing that is there is overwritten."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicate.errors import UsageError
from replicate.store import curve
from replicate.store.files import make_writable, read_bytes, refuse_links
from replicate.store.lease import Lease, acquire
from replicate.store.owner import Owner
from replicate.store.result import BadRecordError, Result, read_result
from replicate.store.run_folder import CURVE, LAYERS, PREDICTIONS, RESULT, RunFolder, recorded
from replicate.store.watch import LeaseWatch

OTHERS = (CURVE, LAYERS, PREDICTIONS)  # of a run, next to its record; checkpoints and logs stay where they are
MAX_BYTES = curve.MAX_BYTES  # of each
# What a run yielded. The rest of a record says when, where and by which code.
YIELD = ("status", "test_accuracy", "train_loss", "iteration", "init", "fingerprint")
ONLY_IF_BOTH = ("classes", "test_images", "weights_sha256")  # older records lack them


@dataclass(frozen=True, slots=True)
class RunCopy:
    """A run folder that holds a record, as read.

    Args:
        folder: where.
        result: the record.
        files: content of those of OTHERS that are there.
    """

    folder: RunFolder
    result: Result
    files: dict[str, bytes]


@dataclass(slots=True)
class MergeReport:
    """What happened to each run.

    Args:
        copied: run_ids whose record was copied.
        present: run_ids whose record was there already, and is as good.
        conflicts: one line per run whose finished records differ; none of them was copied.
        troubles: one line per file that cannot be read.
        left_out: one line per run in progress; the next call copies it.
    """

    copied: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 1 where records contradict each other or cannot be read."""
        return int(bool(self.conflicts or self.troubles))

    def lines(self) -> Iterator[str]:
        """The report for a terminal."""
        yield from (f"conflict: {line}" for line in self.conflicts)
        yield from (f"not readable: {line}" for line in self.troubles)
        yield from (f"under way, left out: {line}" for line in self.left_out)
        yield (
            f"{len(self.copied)} runs copied, {len(self.present)} there already, {len(self.conflicts)} in conflict, "
            f"{len(self.troubles)} not readable, {len(self.left_out)} under way"
        )


def merge(sources: Sequence[Path], out: Path) -> MergeReport:
    """Copy record, curve, layers and predictions of every run that these output folders hold into another.

    A finished record wins over an error, and an error over nothing. If finished records of a run contradict each other,
    none is copied, and what `out` has stays. Each run is written under its lease, and runs in progress are left out.

    Args:
        sources: output folders; they are only read.
        out: output folder; it is made.

    Raises:
        UsageError: a source is no output folder or is `out` itself, or `out` cannot be written or holds a link.
        OSError: `out` is full, or out of reach.
    """
    for source in sources:
        if not (source / "runs").is_dir():
            raise UsageError(f"{source} is no output folder: there is no {source / 'runs'}")
        if source.resolve() == out.resolve():
            raise UsageError(f"{source} is the folder to collect into; name the others alone")
    folders: dict[str, list[RunFolder]] = {}
    for source in dict.fromkeys(sources):
        for folder in recorded(source):
            folders.setdefault(folder.path.name, []).append(folder)
    make_writable(out)
    refuse_links(out, folders)
    report, watch = MergeReport(), LeaseWatch()
    for run_id in sorted(folders):
        _merge_run(folders[run_id], RunFolder(out / "runs" / run_id), report, watch)
    return report


def _merge_run(folders: Iterable[RunFolder], target: RunFolder, report: MergeReport, watch: LeaseWatch) -> None:
    found = [copy for copy in (_read(folder, report, watch) for folder in folders) if copy is not None]
    if not found:
        return
    run = found[0].result.run
    info = watch.look(target)
    lease = acquire(target, Owner("collect", run.iterations), expired=info.token if info and info.expired else None)
    if lease is None:
        report.left_out.append(f"{target.path} ({info.holder if info else 'another process'})")
        return
    with lease:
        standing = _read(target, report)
        if standing is None and target.result.exists():
            return  # it cannot be read, as was reported, and is somebody's file all the same
        finished = [copy for copy in (standing, *found) if copy is not None and copy.result.final]
        for other in finished[1:]:
            if differs := _differences(finished[0], other):
                names = f"{finished[0].folder.path} and {other.folder.path}"
                report.conflicts.append(f"{run.run_id}: {names} differ in {', '.join(differs)}")
                return
        best = (finished or found)[0]
        if standing is not None and (standing.result.final or not best.result.final):
            report.present.append(run.run_id)
            return
        _write(best, lease)
        report.copied.append(run.run_id)


def _read(folder: RunFolder, report: MergeReport, watch: LeaseWatch | None = None) -> RunCopy | None:
    """Read a run's folder; None if there is no record, or none that can be used.

    Args:
        folder: of the run.
        report: is told why.
        watch: looks whether the run is in progress; None: its lease is ours.
    """
    try:
        # A link in somebody else's folder could have any file of this machine copied into results that are passed on.
        for path in (folder.path, *(folder.path / name for name in (RESULT, *OTHERS))):
            if path.is_symlink():
                raise BadRecordError("a symbolic link", path)
        result = read_result(folder.result)
        info = watch.look(folder) if watch and not result.final else None
        if info is not None and not info.expired:
            report.left_out.append(f"{folder.path} ({info.holder})")
            return None
        there = [name for name in OTHERS if (folder.path / name).exists()]
        return RunCopy(folder, result, {name: read_bytes(folder.path / name, MAX_BYTES) for name in there})
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        report.troubles.append(str(error))
    except OSError as error:
        report.troubles.append(f"{error.filename or folder.path}: {error.strerror}")
    return None


def _differences(one: RunCopy, other: RunCopy) -> list[str]:
    """Name what two finished records of a run say differently of it."""
    a, b = one.result, other.result
    names = [name for name in YIELD if getattr(a, name) != getattr(b, name)]
    for name in ONLY_IF_BOTH:
        if None not in (getattr(a, name), getattr(b, name)) and getattr(a, name) != getattr(b, name):
            names.append(name)
    both = one.files.keys() & other.files.keys()
    return names + [name for name in OTHERS if name in both and one.files[name] != other.files[name]]


def _write(found: RunCopy, lease: Lease) -> None:
    for name in OTHERS:
        if name in found.files:
            lease.write(name, found.files[name])
        else:
            lease.remove(name)  # of a failed attempt
    lease.write_result(found.result)  # last: where there is a record, the rest is there
