"""The schema of `result.json`: what one run yielded. Written whole, and read strictly."""

import json
import math
from dataclasses import KW_ONLY, asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from replicate.errors import KINDS, UsageError, explain
from replicate.run import LATER, STRICT, Run
from replicate.store.files import escape_control_chars, read_bytes

SCHEMA = 1
MAX_BYTES = 16_000_000  # of a record; ours have about 10,000
MAX_LINE = 1000
MAX_COUNT = 2**53  # beyond it a float64 is no longer exact
MAX_NUMBER = 1e39  # float32, in which losses and variances are computed, ends at 3.4e38
Status = Literal["converged", "not_converged", "diverged", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
CHANCE_FACTOR = 1.5  # a test accuracy of up to so many times chance is `not_converged`


def status_of(accuracy: float, classes: int | None) -> Status:
    """How a run ended that reached its last iteration.

    Args:
        accuracy: on the test images, in %.
        classes: of the data set; None if they are not known.
    """
    chance = 100 / (classes or math.inf)
    return "converged" if accuracy > CHANCE_FACTOR * chance else "not_converged"


class BadRecordError(ValueError):
    """A file that this program did not finish writing, or did not write for this run.

    Args:
        reason: what is wrong.
        path: the file; the message names it.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason


def reason_of(error: BadRecordError | OSError) -> str:
    """Why a file could not be used, without its path."""
    return error.reason if isinstance(error, BadRecordError) else error.strerror or str(error)


def _one_line(text: str) -> str:
    if len(text) > MAX_LINE or escape_control_chars(text) != text:
        raise ValueError("it is not a line of text")
    return text


def _kind_of_failure(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"choose from: {', '.join(KINDS)}")
    return name


Line = Annotated[str, AfterValidator(_one_line)]  # shown in tables and on terminals
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Accuracy = Annotated[float, Field(ge=0, le=100)]  # in %
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


@with_config(ConfigDict(strict=True, extra="allow"))
class LayerEntry(TypedDict):
    """What the initialisation did to a weight layer or a maxout piece: these keys and those of its method."""

    layer: Line
    piece: Count
    variance: Number | None


@with_config(STRICT)
class Attempt(TypedDict):
    """An attempt at the run that failed: its number from 1, when, and the last line of its error."""

    attempt: Count
    when: str
    reason: str


@dataclass(frozen=True, slots=True, config=STRICT)
class Result:
    """The record of one run. The defaults stand for what is not known, and for what older records do not have."""

    run: Annotated[Run, Field(description="what was run")]
    status: Annotated[Status, Field(description="how it ended")]
    _: KW_ONLY
    test_accuracy: Annotated[
        Accuracy | None,
        Field(description="of the last iteration, in %; null if the run did not reach its end"),
    ] = None
    train_loss: Annotated[
        Number | None,
        Field(description="mean cross-entropy since the last but one row of the curve, in nats; null as above"),
    ] = None
    iteration: Annotated[Count, Field(description="optimiser steps taken")] = 0
    init: Annotated[list[LayerEntry], Field(description="one entry per weight layer; maxout: per piece")] = field(
        default_factory=list
    )
    seconds: Annotated[Number, Field(description="wall-clock time of the whole run")]
    images_per_second: Annotated[
        Number | None, Field(description="training images over the time of the training loop without evaluations")
    ] = None
    data_label: Annotated[Line, Field(description="name of the data set for people")] = "unknown"
    fingerprint: Annotated[
        Line, Field(description="sha256 of the data set's content; `unknown` if the run failed before it was read")
    ] = "unknown"
    commit: Annotated[Line, Field(description="commit of the code, or `unknown`")]
    dirty: Annotated[
        bool | None, Field(description="whether replicate/ or experiments/ differed from the commit; null: unknown")
    ] = None
    versions: Annotated[dict[str, str], Field(description="of Python and the libraries that matter")]
    device: Annotated[Line, Field(description="name of the device")]
    options: Annotated[dict[str, Any], Field(description="Options of the run, as plain data")]
    finished: Annotated[Line, Field(description="when, UTC, ISO 8601")]
    error: Annotated[str | None, Field(description="traceback, for status `error`")] = None
    classes: Annotated[
        Count | None, Field(description="of the data set; null if the run failed before the data was read")
    ] = None
    passing: Annotated[
        Annotated[str, AfterValidator(_kind_of_failure)] | None,
        Field(description="for status `error`: the kind of a transient failure; null: the run's own fault"),
    ] = None
    history: Annotated[list[Attempt], Field(description="the failed attempts before this one")] = field(
        default_factory=list
    )
    test_images: Annotated[Count | None, Field(description="number of test images; null as for classes")] = None
    weights_sha256: Annotated[
        Line | None, Field(description="digest of the final weights; null if the run did not reach its end")
    ] = None
    environment: Annotated[
        dict[str, Any] | None,
        Field(description="what else selects the kernels: processor, instruction set, threads, cuDNN, NVIDIA's MPS"),
    ] = None
    parts: Annotated[
        list[dict[str, Any]] | None,
        Field(
            description="if a stopped run went on with other code or on another machine: commit, dirty, versions, "
            "device and environment from the iteration `from` on"
        ),
    ] = None

    @property
    def final(self) -> bool:
        """True unless the run ended in an error."""
        return self.status != "error"

    def to_json(self) -> str:
        """The content of `result.json`.

        Raises:
            ValueError: a number is not finite.
        """
        record = {"schema": SCHEMA, "run_id": self.run.run_id, **asdict(self)}
        # JSON has no NaN: a record must be readable by every JSON reader.
        return json.dumps(record, indent=1, allow_nan=False) + "\n"


def read_result(path: Path) -> Result:
    """Read a `result.json`.

    Raises:
        BadRecordError: half-written, of another schema, with a missing, unknown or wrong value, or with a run_id that
            is not its run's or not its folder's. The message names the file and what is wrong.
        OSError: there is none, or it is no plain file of the size of a record.
    """
    try:
        record = json.loads(read_bytes(path, MAX_BYTES).decode(), parse_float=_finite, parse_constant=_finite)
        if not isinstance(record, dict):
            raise BadRecordError("not a result: the file holds no JSON object")
        if record.pop("schema", None) != SCHEMA:
            raise BadRecordError(f"not a result of schema {SCHEMA}")
        run_id = record.pop("run_id", None)
        result = Result(**record | {"run": Run(**{**LATER, **record["run"]})})
        if not run_id == result.run.run_id == path.parent.name:
            raise BadRecordError(f"holds run {run_id}, whose settings give {result.run.run_id}")
        if result.status in STATUSES[:2] and result.test_accuracy is None:
            raise BadRecordError("a finished run without a test accuracy")
    except ValidationError as error:
        raise BadRecordError(f"not a whole result: {explain(error)}", path) from None
    except BadRecordError as error:
        raise BadRecordError(error.reason, path) from None
    except (UsageError, TypeError, ValueError, KeyError, RecursionError) as error:
        raise BadRecordError(f"not a whole result: {error}", path) from None
    return result


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):  # also of 1e999
        raise ValueError(f"{text} is not a number of JSON")
    return value
