"""Result: what one run yielded; written atomically, and read back strictly."""

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Container, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from replicate import passing
from replicate.errors import UsageError
from replicate.run import Run
from replicate.untrusted import printable, read_bytes

SCHEMA = 1
MOST_BYTES = 16_000_000  # of a record; ours have about 10,000
STATUSES = ("converged", "not_converged", "diverged", "error")


class BadRecordError(ValueError):
    """A `result.json` that this program did not finish writing, or did not write for this run."""


@dataclass(frozen=True, slots=True)
class Result:
    """The record of one run, `result.json`.

    Args:
        run: what was run.
        status: one of STATUSES.
        test_accuracy: of the last iteration, in %; None where the run did not come to its end.
        train_loss: mean cross-entropy since the last row of the curve but one, in nats; None likewise.
        iteration: optimiser steps taken.
        init: one entry a weight layer (maxout: a piece): what the initialisation did, and the variance after it.
        seconds: wall-clock time of the whole run.
        images_per_second: training images over the time of the training loop less its evaluations.
        data_label: name of the data set for people.
        fingerprint: sha256 of the data set's content; `unknown` if the run failed before the data was read.
        commit: commit of the code, or `unknown`.
        dirty: whether replicate/ or experiments/ differed from the commit; None where unknown.
        versions: of Python and the libraries that matter.
        device: name of the device.
        options: Options of the run, as plain data.
        finished: when, UTC, ISO 8601.
        error: traceback, for status `error`.
        classes: of the data set; None if the run failed before the data was read.
        passing: for status `error`: what may pass of itself, one of `passing.KINDS`; None: the run's own fault.
        history: the attempts before this one that failed: `attempt` (from 1), `when`, `reason`.
        test_images: number of test images; None likewise, and in older records, as in the fields below.
        weights_sha256: digest of the final weights; None where the run did not come to its end.
        environment: what else picks the kernels: processor, instruction set, threads, cuDNN.
        parts: where a stopped run went on with other code or on another machine: commit, dirty, versions, device and
            environment from the iteration `from` on; None where nothing changed.
    """

    run: Run
    status: str
    test_accuracy: float | None
    train_loss: float | None
    iteration: int
    init: list[dict[str, Any]]
    seconds: float
    images_per_second: float | None
    data_label: str
    fingerprint: str
    commit: str
    dirty: bool | None
    versions: dict[str, str]
    device: str
    options: dict[str, Any]
    finished: str
    error: str | None = None
    classes: int | None = None
    passing: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    test_images: int | None = None
    weights_sha256: str | None = None
    environment: dict[str, Any] | None = None
    parts: list[dict[str, Any]] | None = None

    @property
    def final(self) -> bool:
        """Whether there is nothing left to do: whatever the number, it is one."""
        return self.status != "error"

    def write(self, folder: Path, scratch: Path | None = None) -> Path:
        """Write `folder/result.json` so that it is there whole or not at all; `scratch` as in write_atomically."""
        record = {"schema": SCHEMA, "run_id": self.run.run_id, **asdict(self)}
        # JSON has no NaN: a record must be readable by every JSON reader.
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        folder.mkdir(parents=True, exist_ok=True)
        return write_atomically(folder / "result.json", text, scratch)


def write_atomically(path: Path, content: str | bytes, scratch: Path | None = None) -> Path:
    """Write a file by way of a temporary one, so that no reader ever sees half of it.

    Args:
        path: of the file.
        content: text or bytes.
        scratch: folder for the temporary file, on the same file system; None: the file's own. Where it is gone, so is
            the right to write: nothing is written.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=scratch or path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    with contextlib.suppress(OSError):  # so that a loss of power does not undo the renaming; not all systems can
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


_NONE = type(None)
# What each field of a record may hold; JSON does not tell 1 from 1.0.
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("test_accuracy", "train_loss", "images_per_second"), (int, float, _NONE)),
    **dict.fromkeys(("status", "data_label", "fingerprint", "commit", "device", "finished"), (str,)),
    **{"iteration": (int,), "seconds": (int, float), "init": (list,), "dirty": (bool, _NONE), "versions": (dict,)},
    **{"options": (dict,), "error": (str, _NONE), "classes": (int, _NONE), "test_images": (int, _NONE)},
    **{"passing": (str, _NONE), "history": (list,)},
    **{"weights_sha256": (str, _NONE), "environment": (dict, _NONE), "parts": (list, _NONE)},
}


# Shown in tables and on terminals: one line, nothing that a terminal obeys.
LINES = ("status", "data_label", "fingerprint", "commit", "device", "finished", "weights_sha256")
LONGEST = 1000


def _names(optional: bool) -> set[str]:
    return {one.name for one in fields(Result) if optional or one.default is one.default_factory is MISSING}


def read(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        BadRecordError: half-written, of another schema, with missing or unknown keys, or with a run_id that is not its
            run's or not its folder's. The message names the file and what is wrong.
        OSError: there is none, or it is no plain file of the size of a record.
    """
    try:
        record = json.loads(read_bytes(path, MOST_BYTES).decode(), parse_float=_number, parse_constant=_number)
        if not isinstance(record, dict):
            raise BadRecordError(f"{path}: not a result: the file holds no JSON object")
        if record.pop("schema", None) != SCHEMA:
            raise BadRecordError(f"{path}: not a result of schema {SCHEMA}")
        run_id = record.pop("run_id", None)
        known, needed = _names(optional=True), _names(optional=False)
        if odd := sorted((needed - record.keys()) | (record.keys() - known)):
            raise BadRecordError(f"{path}: missing or unknown key {odd[0]!r}")
        result = Result(**{**record, "run": Run(**record["run"])})
    except (UsageError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, BadRecordError):
            raise
        raise BadRecordError(f"{path}: not a whole result: {error}") from None
    if not run_id == result.run.run_id == path.parent.name:
        raise BadRecordError(f"{path}: holds run {run_id}, whose settings give {result.run.run_id}")
    _check(path, result)
    return result


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):  # also of 1e999
        raise ValueError(f"{text} is no number of a record")
    return value


def _check(path: Path, result: Result) -> None:
    """Refuse values that this program does not write."""
    for name, kinds in KINDS.items():
        value = getattr(result, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise BadRecordError(f"{path}: {name} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRecordError(f"{path}: {name} is {value!r}")
        if isinstance(value, int | float) and abs(value) > 2**53:  # no number of ours; some readers would fail on it
            raise BadRecordError(f"{path}: {name} is out of range")
        if name in LINES and isinstance(value, str) and (len(value) > LONGEST or printable(value) != value):
            raise BadRecordError(f"{path}: {name} is not a line of text")
    if not all(map(_is_layer, result.init)):
        raise BadRecordError(f"{path}: init is not a list of layers")
    if not all(isinstance(entry, dict) and entry.keys() == {"attempt", "when", "reason"} for entry in result.history):
        raise BadRecordError(f"{path}: history is not a list of attempts")
    if result.passing not in (None, *passing.KINDS):
        raise BadRecordError(f"{path}: unknown passing {result.passing!r}")
    if result.test_accuracy is not None and not 0 <= result.test_accuracy <= 100:
        raise BadRecordError(f"{path}: test_accuracy is {result.test_accuracy!r}")
    if result.status not in STATUSES:
        raise BadRecordError(f"{path}: unknown status {result.status!r}")
    if result.status in STATUSES[:2] and not isinstance(result.test_accuracy, int | float):
        raise BadRecordError(f"{path}: a finished run without a test accuracy")


def _is_layer(entry: object) -> bool:
    if not isinstance(entry, dict) or not {"layer", "piece", "variance"} <= entry.keys():
        return False
    layer, variance = entry["layer"], entry["variance"]
    return isinstance(layer, str) and printable(layer) == layer and isinstance(variance, int | float | None)


@dataclass(frozen=True, slots=True)
class Records:
    """What an output folder holds of the runs asked for.

    Args:
        results: run_id -> Result, in the order asked for.
        bad: records that could not be read, each with its reason.
        others: number of records in the folder that were not asked for.
    """

    results: Mapping[str, Result]
    bad: Mapping[Path, str]
    others: int


def collect(out: Path, runs: Iterable[Run]) -> Records:
    """Read the records of these runs from `out/runs/`."""
    results, bad = {}, {}
    paths = {run.run_id: out / "runs" / run.run_id / "result.json" for run in runs}
    for run_id, path in paths.items():
        try:
            results[run_id] = read(path)
        except FileNotFoundError:
            continue
        except (BadRecordError, OSError) as error:
            bad[path] = str(error)
    return Records(results, bad, count_others(out, paths))


def count_others(out: Path, run_ids: Container[str]) -> int:
    """Count the records in `out/runs/` that are of none of these runs."""
    return sum(path.parent.name not in run_ids for path in out.glob("runs/*/result.json"))
