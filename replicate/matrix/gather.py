"""Merge the run folders of several output folders into one, by run_id; nothing that stands is overwritten."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicate.errors import UsageError
from replicate.matrix import claims
from replicate.matrix.owner import Owner
from replicate.matrix.plan import check_writable
from replicate.results import BadRecordError, Result, read, write_atomically
from replicate.untrusted import read_bytes, refuse_links

OTHERS = ("curve.csv", "layers.json")  # of a run, beside its record; checkpoints and logs stay where they are
MOST_BYTES = 64_000_000  # of each
# What a run has yielded. The rest of a record says when, where and by which code.
YIELD = ("status", "test_accuracy", "train_loss", "iteration", "init", "fingerprint")
ONLY_IF_BOTH = ("classes", "test_images", "weights_sha256")  # older records lack them


@dataclass(frozen=True, slots=True)
class Found:
    """A run folder that holds a record.

    Args:
        folder: where.
        result: the record.
        files: content of those of OTHERS that are there.
    """

    folder: Path
    result: Result
    files: dict[str, bytes]


@dataclass(slots=True)
class Gathered:
    """What became of each run.

    Args:
        copied: run_ids of which the output folder has a record now that it had not.
        standing: those whose record was there already, and is as good.
        conflicts: a line each, of runs whose finished records differ; none of them was copied.
        troubles: a line each, of what cannot be read.
        left_out: a line each, of runs under way, which the next call takes.
    """

    copied: list[str] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 1 where records contradict each other or cannot be read."""
        return int(bool(self.conflicts or self.troubles))

    def lines(self) -> Iterator[str]:
        """Tell of it all."""
        yield from (f"conflict: {line}" for line in self.conflicts)
        yield from (f"not readable: {line}" for line in self.troubles)
        yield from (f"under way, left out: {line}" for line in self.left_out)
        yield (
            f"{len(self.copied)} runs copied, {len(self.standing)} there already, {len(self.conflicts)} in conflict, "
            f"{len(self.troubles)} not readable, {len(self.left_out)} under way"
        )


def gather(sources: Sequence[Path], out: Path) -> Gathered:
    """Copy record, curve and layers of every run that these output folders hold into another.

    A finished record wins over an error, and an error over nothing. Where finished records of a run differ in what they
    say of the run, none is copied; what `out` has stands. Each run is written under its claim: a run that another
    command works on, here or there, is left alone.

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
    folders: dict[str, list[Path]] = {}
    for source in dict.fromkeys(sources):
        for path in sorted(source.glob("runs/*/result.json")):
            folders.setdefault(path.parent.name, []).append(path.parent)
    check_writable(out)
    refuse_links(out, folders)
    gathered, watch = Gathered(), claims.Watch()
    for run_id in sorted(folders):
        _gather(folders[run_id], out / "runs" / run_id, gathered, watch)
    return gathered


def _gather(folders: Iterable[Path], target: Path, gathered: Gathered, watch: claims.Watch) -> None:
    found = [one for one in (_find(folder, gathered, watch) for folder in folders) if one is not None]
    if not found:
        return
    run = found[0].result.run
    claim = watch.look(target)
    stale = claim.token if claim is not None and claim.stale else None
    holding = claims.take(target, Owner("collect", run.iterations), stale=stale)
    if holding is None:
        gathered.left_out.append(f"{target} ({claim.holder if claim else 'another process'})")
        return
    with holding:
        standing = _find(target, gathered)
        if standing is None and (target / "result.json").exists():
            return  # not readable, as was said, and somebody's file all the same
        finished = [one for one in (standing, *found) if one is not None and one.result.final]
        for other in finished[1:]:
            if differs := _differences(finished[0], other):
                names = f"{finished[0].folder} and {other.folder}"
                gathered.conflicts.append(f"{run.run_id}: {names} differ in {', '.join(differs)}")
                return
        best = (finished or found)[0]
        if standing is not None and (standing.result.final or not best.result.final):
            gathered.standing.append(run.run_id)
            return
        _write(best, target, holding.scratch)
        gathered.copied.append(run.run_id)


def _find(folder: Path, gathered: Gathered, watch: claims.Watch | None = None) -> Found | None:
    """Read a run's folder; None where there is no record, or none to be had.

    Args:
        folder: the run's.
        gathered: is told why.
        watch: looks whether the run is under way; None: it is ours.
    """
    try:
        # A link in somebody else's folder could have any file of this machine copied into results that are passed on.
        for path in (folder, *(folder / name for name in ("result.json", *OTHERS))):
            if path.is_symlink():
                raise BadRecordError(f"{path}: a symbolic link")
        result = read(folder / "result.json")
        claim = watch.look(folder) if watch and not result.final else None
        if claim is not None and not claim.stale:
            gathered.left_out.append(f"{folder} ({claim.holder})")
            return None
        there = [name for name in OTHERS if (folder / name).exists()]
        return Found(folder, result, {name: read_bytes(folder / name, MOST_BYTES) for name in there})
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        gathered.troubles.append(str(error))
    except OSError as error:
        gathered.troubles.append(f"{error.filename or folder}: {error.strerror}")
    return None


def _differences(one: Found, other: Found) -> list[str]:
    """Name what two finished records of a run say differently of it."""
    a, b = one.result, other.result
    names = [name for name in YIELD if getattr(a, name) != getattr(b, name)]
    for name in ONLY_IF_BOTH:
        if None not in (getattr(a, name), getattr(b, name)) and getattr(a, name) != getattr(b, name):
            names.append(name)
    both = one.files.keys() & other.files.keys()
    return names + [name for name in OTHERS if name in both and one.files[name] != other.files[name]]


def _write(found: Found, target: Path, scratch: Path) -> None:
    for name in OTHERS:
        if name in found.files:
            write_atomically(target / name, found.files[name], scratch)
        else:
            (target / name).unlink(missing_ok=True)  # of a failed attempt
    found.result.write(target, scratch)  # last: where there is a record, the rest is there
