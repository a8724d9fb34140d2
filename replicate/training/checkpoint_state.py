"""Checks the state in a checkpoint before a training continues from it: nothing in the file is taken on trust."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from torch import Tensor
from typing_extensions import TypedDict

from replicate.data.batches import epoch_ends
from replicate.data.dataset import Dataset
from replicate.errors import explain
from replicate.run import Run
from replicate.store.fields import Count, Line, Plain, Size
from replicate.store.measurements import COLUMNS, SNAPSHOTS
from replicate.store.result import InitReport
from replicate.training.build import build_net
from replicate.training.measurements import snapshot_iterations
from replicate.training.module import Classifier
from replicate.training.optimizers import BUFFERS

_strict = with_config(ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True))


@_strict
class _Sampler(TypedDict):
    generator: Tensor
    position: Count
    taken: Count


@_strict
class _Curve(TypedDict):
    rows: list[dict[str, Annotated[float, Field(allow_inf_nan=True)]]]  # a test loss may overflow
    seconds: Size


@_strict
class _Layers(TypedDict):
    snapshots: tuple[dict[str, Any], ...]


@_strict
class _Optimizer(TypedDict):
    state: dict[int, dict[str, Tensor | None]]
    param_groups: list[dict[str, Any]]  # not used: they hold the run's settings


@_strict
class _Rank(TypedDict):
    totals: Tensor
    generators: dict[str, Tensor]


@_strict
class _Record(TypedDict):
    init: Annotated[InitReport, Field(min_length=1)]
    init_passes: NotRequired[Count | None]
    parts: Annotated[list[Plain], Field(min_length=1)]
    seconds: Size
    set_aside: NotRequired[list[Line]]


@_strict
class _State(TypedDict):
    schema: int
    identity: str
    iteration: Count
    module: dict[str, Any]
    sampler: _Sampler
    curve: _Curve
    layers: _Layers
    optimizer: _Optimizer
    ranks: Annotated[list[_Rank], Field(min_length=1)]
    record: _Record


_STATE = TypeAdapter(_State)


def check_state(state: Mapping[str, Any], run: Run, dataset: Dataset) -> None:
    """Check that a training of the run on these data could have left a state.

    Args:
        state: as saved by CheckpointOnSignal.
        run: what is trained.
        dataset: on what.

    Raises:
        ValueError: names what does not fit. Other exceptions for what no version of this program has saved.
    """
    try:
        _STATE.validate_python(state)
        SNAPSHOTS.validate_python(state["layers"]["snapshots"], strict=False)
    except ValidationError as error:
        raise ValueError(explain(error)) from None
    iteration, images = state["iteration"], len(dataset.train_labels)
    if not 0 < iteration < run.iterations:
        raise ValueError(f"its iteration is {iteration}, and the run has {run.iterations}")

    rows = [row["iteration"] for row in state["curve"]["rows"] if [*row] == [*COLUMNS]]
    ends = [end for end in epoch_ends(images, run.batch_size, run.iterations) if end <= iteration]
    _compare("rows of the curve", rows, ends)
    snapshots = [snapshot["iteration"] for snapshot in state["layers"]["snapshots"]]
    _compare("snapshots", snapshots, [one for one in snapshot_iterations(run.iterations) if one <= iteration])

    sampler, trained = state["sampler"], iteration * run.batch_size
    _compare("place in the data", (sampler["taken"], sampler["position"]), (iteration, (trained - 1) % images + 1))
    _compare("sums", {tuple(rank["totals"].shape) for rank in state["ranks"]}, {(3,)})
    counted = sum(float(rank["totals"][-1]) for rank in state["ranks"])
    _compare("number of images since the last row", counted, trained - max(ends, default=0) * run.batch_size)
    for generator in (sampler["generator"], *(rank["generators"]["cpu"] for rank in state["ranks"])):
        torch.Generator().set_state(generator.cpu())  # raises unless it is a state

    # On the device `meta`, tensors have shapes and no values.
    module = Classifier(build_net(run, len(dataset.classes), "meta"), run)
    extra = {"_extra_state": {"iteration": iteration}}
    _compare("weights", _shapes(state["module"]), _shapes({**module.state_dict(), **extra}))
    parameters = [one for group in module.configure_optimizers().param_groups for one in group["params"]]
    expected = {(key, name): one for key, one in enumerate(parameters) for name in BUFFERS[run.optimizer]}
    found = {(key, name): one for key, buffers in state["optimizer"]["state"].items() for name, one in buffers.items()}
    steps = {float(found.pop(place)) for place in [*found] if place[1] == "step"}
    if found or run.optimizer != "sgd" or run.momentum:  # SGD without momentum has buffers only in a CUDA graph
        _compare("buffers of the optimiser", _shapes(found), _shapes(expected))
    _compare("steps of the optimiser", steps, {iteration} if run.optimizer in ("rmsprop", "adam") else set())
    _compare("first part of the record", state["record"]["parts"][0].get("from"), 0)


def _compare(what: str, found: object, expected: object) -> None:
    if found == expected:
        return
    if isinstance(found, dict) and isinstance(expected, dict):
        key = next(key for key in {**expected, **found} if found.get(key) != expected.get(key))
        what, found, expected = f"{what} {key!r}", found.get(key), expected.get(key)
    raise ValueError(f"its {what} would be {expected!r:.100}, not {found!r:.100}")


def _shapes(tensors: Mapping[Any, Any]) -> dict[Any, Any]:
    """The shape and the type of each tensor; anything else as it is."""
    return {key: (tuple(one.shape), one.dtype) if isinstance(one, Tensor) else one for key, one in tensors.items()}
