"""What is known of a run while it trains, and the Result that it becomes."""

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from replicate.data.dataset import Dataset
from replicate.options import Options
from replicate.run import Run
from replicate.store.curve import Row
from replicate.store.result import Attempt, LayerEntry, Result, status_of
from replicate.training.environment import environment_record
from replicate.training.module import DivergedError, Steps


@dataclass(frozen=True, slots=True)
class Finished:
    """The training reached its last iteration.

    Args:
        row: the last row of the curve.
        images_per_second: in training, without evaluations.
        weights_sha256: digest of the final weights.
    """

    row: Row
    images_per_second: float
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An exception ended the training.

    Args:
        traceback: of the exception.
        kind: of errors.transient_kind.
    """

    traceback: str
    kind: str | None


class RunRecord:
    """Collects what is known of a run; its clock starts at once.

    Args:
        run: what is trained.
        options: where and how.
        steps: makes the iterations.
        history: the failed attempts before this one.
    """

    def __init__(self, run: Run, options: Options, steps: Steps, history: Sequence[Attempt] = ()) -> None:
        self.run, self.options, self.steps, self.history = run, options, steps, history
        self.dataset: Dataset | None = None
        self.init: list[LayerEntry] = []  # report of the initialisation
        self._resumed_at = 0
        self._earlier_parts: list[dict[str, Any]] = []
        self._earlier_seconds = 0.0
        self._begin = time.perf_counter()

    def resume(self, state: dict[str, Any]) -> None:
        """Continue the record of an interrupted training from the state in its checkpoint."""
        self.init = state["record"]["init"]
        self._earlier_parts = state["record"]["parts"]
        self._earlier_seconds = state["record"]["seconds"]
        self._resumed_at = state["iteration"]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the record: plain data, see `resume`."""
        return {"init": self.init, "parts": self._parts(), "seconds": self._seconds()}

    def result(self, outcome: Finished | DivergedError | Failed) -> Result:
        """Build the Result, once the training is over."""
        parts = self._parts()
        result = Result(
            run=self.run,
            status="error",
            init=self.init,
            seconds=self._seconds(),
            data_label=self.run.dataset,
            options=self.options.plain(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            history=list(self.history),
            parts=parts if len(parts) > 1 else None,
            **environment_record(self.options, self.steps.name),
        )
        if self.dataset is not None:
            result = replace(
                result,
                data_label=self.dataset.label,
                fingerprint=self.dataset.fingerprint,
                classes=len(self.dataset.classes),
                test_images=len(self.dataset.test_labels),
            )
        match outcome:
            case Failed(traceback, kind):
                return replace(result, error=traceback, passing=kind)
            case DivergedError():
                return replace(result, status="diverged", iteration=outcome.iteration)
            case Finished(row, images_per_second, weights):
                loss, accuracy = row["train_loss"], row["test_accuracy"]
                return replace(
                    result,
                    status=status_of(accuracy, result.classes),
                    test_accuracy=accuracy,
                    train_loss=loss if math.isfinite(loss) else None,
                    iteration=int(row["iteration"]),
                    images_per_second=images_per_second,
                    weights_sha256=weights,
                )

    def _seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._begin

    def _parts(self) -> list[dict[str, Any]]:
        """Who trained which part of the run: a new entry each time the code or the machine changed."""
        current = environment_record(self.options, self.steps.name)
        earlier = self._earlier_parts
        if earlier and earlier[-1] == {"from": earlier[-1]["from"], **current}:
            return earlier
        return [*earlier, {"from": self._resumed_at, **current}]


def weights_sha256(net: nn.Module) -> str:
    """Sha256 (hexadecimal) over the state dict in its order: of each tensor its name, dtype, shape and bytes.

    Two runs are compared by it bit by bit without keeping their weights. The bytes are those of the dense row-major
    tensor on the CPU, so neither the device nor the memory format counts.
    """
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())  # NumPy knows no bfloat16
    return digest.hexdigest()
