"""The schema of `layers.json`: measurements of every layer at a few iterations of a training."""

import json
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from replicate.errors import explain
from replicate.run import STRICT
from replicate.store.result import BadRecordError

SCHEMA = 1
MAX_BYTES = 16_000_000  # of a file; ours have about 100,000
Size = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, slots=True, config=STRICT)
class Layer:
    """One weight layer, or one piece of a maxout layer, at one iteration. What is not finite is null."""

    name: Annotated[str, Field(description="of the layer")]
    piece: Annotated[int, Field(description="index of the maxout piece, else 0")]
    variance: Annotated[Size | None, Field(description="biased, of all values of the pre-activation on a fixed batch")]
    gradient_norm: Annotated[Size | None, Field(description="L2 norm of the mean loss's gradient by the weight")]
    singular_values: Annotated[
        tuple[Size | None, ...],
        Field(strict=False, description="of the weight as a matrix (out, fan_in), in descending order"),
    ]


@dataclass(frozen=True, slots=True, config=STRICT)
class Snapshot:
    """The layers of a net, in the order of the forward pass, after `iteration` steps; 0 is after initialisation."""

    iteration: Annotated[int, Field(ge=0)]
    layers: Annotated[tuple[Layer, ...], Field(strict=False)]


@dataclass(frozen=True, slots=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class _File:
    schema: int
    run_id: str
    fingerprint: str
    moments: Annotated[tuple[Snapshot, ...], Field(strict=False)]


_FILE = TypeAdapter(_File)
_SNAPSHOTS = TypeAdapter(tuple[Snapshot, ...])


def to_json(run_id: str, fingerprint: str, snapshots: tuple[Snapshot, ...]) -> str:
    """The content of `layers.json`.

    Args:
        run_id: of the run.
        fingerprint: of the data.
        snapshots: in ascending order of their iterations.
    """
    content = asdict(_File(SCHEMA, run_id, fingerprint, snapshots))
    return json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"


def parse_layers(content: bytes, run_id: str, fingerprint: str) -> tuple[Snapshot, ...]:
    """Read a `layers.json`.

    Args:
        content: of the file.
        run_id: of the run that it must be of.
        fingerprint: of the data that it must be of.

    Raises:
        BadRecordError: half-written, of another schema, run or data set, or with a wrong value.
    """
    try:
        file = _FILE.validate_json(content)
    except ValidationError as error:
        raise BadRecordError(explain(error)) from None
    wanted = {"schema": SCHEMA, "run_id": run_id, "fingerprint": fingerprint}
    for key, value in wanted.items():
        if getattr(file, key) != value:
            raise BadRecordError(f"{key} is {getattr(file, key)!r}, not {value!r} as in the record")
    iterations = [snapshot.iteration for snapshot in file.moments]
    if iterations != sorted(set(iterations)):
        raise BadRecordError("the iterations of its moments do not ascend")
    return file.moments


def to_plain(snapshots: tuple[Snapshot, ...]) -> list[dict[str, Any]]:
    """Snapshots as plain data, for a checkpoint."""
    return [asdict(snapshot) for snapshot in snapshots]


def from_plain(content: list[dict[str, Any]]) -> tuple[Snapshot, ...]:
    """Snapshots from plain data.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _SNAPSHOTS.validate_python(content, strict=False)
