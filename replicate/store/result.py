"""The schema of `result.json`: what one run yielded. Written whole, and read strictly."""

import hashlib
import json
import math
from dataclasses import KW_ONLY, asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from replicate.errors import KINDS, UsageError, explain
from replicate.field_types import STRICT, one_of
from replicate.run import LATER, Run
from replicate.store.fields import (
    MAX_ENTRIES,
    Accuracy,
    Count,
    Digest,
    Fingerprint,
    Line,
    Number,
    Plain,
    Size,
    Text,
    as_line,
    plain,
)
from replicate.store.files import read_bytes

SCHEMA = 1
CHANCE_FACTOR = 1.5  # a test accuracy of at most this multiple of chance is `not_converged`

Status = Literal["converged", "not_converged", "diverged", "error"]


def status_of(accuracy: float, classes: int | None) -> Status:
    """Status of a run that reached its last iteration.

    Args:
        accuracy: on the test images, in %.
        classes: number of classes of the data set; None if unknown.
    """
    chance = 100 / (classes or math.inf)
    return "converged" if accuracy > CHANCE_FACTOR * chance else "not_converged"


class BadRecordError(ValueError):
    """A file that this program did not finish writing, or did not write for this run.

    Args:
        reason: what is wrong. It may quote the file.
        path: the file; the message names it.

    Attributes:
        reason: as above, as a line.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        self.reason = as_line(reason)
        super().__init__(f"{path}: {self.reason}" if path else self.reason)


def reason_of(error: BadRecordError | OSError) -> str:
    """Why a file could not be used, without its path."""
    return error.reason if isinstance(error, BadRecordError) else error.strerror or str(error)


@with_config(ConfigDict(strict=True, extra="allow"))
class LayerEntry(TypedDict):
    """What the initialisation did to a weight layer or a maxout piece: these keys and those of its method."""

    layer: Line
    piece: Count
    variance: Number | None


# One entry per weight layer; maxout: per piece
InitReport = Annotated[list[Annotated[LayerEntry, AfterValidator(plain)]], Field(max_length=MAX_ENTRIES)]


@with_config(STRICT)
class Attempt(TypedDict):
    """An attempt at the run that failed: its number, counted from 1, the time, and the last line of its error."""

    attempt: Count
    when: Line
    reason: Text


@dataclass(frozen=True, slots=True, config=STRICT)
class Result:
    """The record of one run. A field that has a default may be unknown, or missing from older records."""

    run: Run
    status: Status
    _: KW_ONLY
    test_accuracy: Accuracy | None = None  # after the last iteration; None if the run did not reach it
    train_loss: Number | None = None  # mean cross-entropy in nats since the curve's last row but one; None as above
    iteration: Count = 0  # optimiser steps taken
    init: InitReport = field(default_factory=list)
    init_passes: Count | None = None  # forward passes of the initialisation; None in older records
    seconds: Size  # wall-clock time of the whole run
    images_per_second: Size | None = None  # training images per second of the training loop, without evaluations
    data_label: Line = "unknown"  # name of the data set, to be shown
    fingerprint: Fingerprint = "unknown"  # sha256 of the data set's content
    commit: Line  # of the code, or `unknown`
    dirty: bool | None = None  # whether replicate/ or experiments/ differed from the commit
    # sha256 of the package's Python files as the training loaded them; None in older records
    sources: Digest | None = None
    versions: Annotated[dict[Line, Line], Field(max_length=MAX_ENTRIES)]  # of Python and the libraries that matter
    device: Line  # its name
    options: Plain  # Options of the run, as plain data
    finished: Line  # the time, in UTC, ISO 8601
    error: Text | None = None  # traceback, for status `error`
    classes: Count | None = None  # of the data set; None if the run failed before the data was read
    # The kind of a transient failure; None: the run itself is at fault, if it failed
    passing: Annotated[str, one_of("kind of failure", KINDS)] | None = None
    history: list[Attempt] = field(default_factory=list)  # the failed attempts before this one
    test_images: Count | None = None  # their number; None as for classes
    weights_sha256: Digest | None = None  # digest of the final weights; None if the run did not reach its end
    # What else selects the kernels: processor, instruction set, threads, cuDNN, NVIDIA's MPS
    environment: Plain | None = None
    # If a stopped run was resumed by other code or on another machine: commit, dirty, sources, versions, device and
    # environment from the iteration `from` on
    parts: list[Plain] | None = None
    # Checkpoints of the run that could not be used, each with the reason; after the last one, the run started again
    set_aside: list[Line] | None = None
    url: Line | None = None  # where its logger shows the run; None unless it was logged online

    def __post_init__(self) -> None:
        if self.status in ("converged", "not_converged") and self.test_accuracy is None:
            raise UsageError("a finished run without a test accuracy")

    @property
    def final(self) -> bool:
        """True unless the run ended in an error."""
        return self.status != "error"

    def to_json(self) -> str:
        """The content of `result.json`."""
        record = {"schema": SCHEMA, "run_id": self.run.run_id, **asdict(self)}
        record["checksum"] = _checksum(record)
        return json.dumps(record, indent=1, allow_nan=False) + "\n"


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        BadRecordError: half-written, of another schema, with a missing, unknown or wrong value, or with a run_id that
            is not its run's or not its folder's. The message names the file and what is wrong.
        OSError: there is none, or it is not a plain file of the size of a record.
    """
    content = read_bytes(path, below=path.parent.parent.parent)  # OUT/runs/<run_id>/result.json
    try:
        record = json.loads(content.decode(), parse_float=_finite, parse_constant=_finite, object_hook=_readable)
        if not isinstance(record, dict):
            raise ValueError("it is not a JSON object")
        checksum = record.pop("checksum", None)
        if checksum not in (None, _checksum(record)):  # older records have none
            raise ValueError("its checksum is wrong, so it was damaged or edited")
        schema, run_id = record.pop("schema", None), record.pop("run_id", None)
        if schema != SCHEMA:
            raise ValueError(f"its schema is {schema!r}, not {SCHEMA}")
        result = Result(**record | {"run": Run(**{**LATER, **record["run"]})})
    except (UsageError, AttributeError, TypeError, ValueError, KeyError, RecursionError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else error
        raise BadRecordError(f"not a whole result: {reason}", path) from None
    if not run_id == result.run.run_id == path.parent.name:
        raise BadRecordError(f"holds run {run_id}, whose settings give {result.run.run_id}", path)
    return result


def _checksum(record: dict[str, Any]) -> str:
    """sha256 (hexadecimal) of a record's content, whatever its layout as text."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _readable(section: dict[str, Any]) -> dict[str, Any]:
    try:
        "".join(section).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell
        raise ValueError("a key is not Unicode text") from None
    return section


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):  # also of 1e999
        raise ValueError(f"{text} is not a number of JSON")
    return value
