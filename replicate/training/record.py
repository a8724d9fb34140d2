"""What is known of a run while it trains, and the Result that it becomes."""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from replicate.data.dataset import Dataset
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Attempt, LayerEntry, Result, Status
from replicate.training.environment import environment_record


class RunRecord:
    """Collects what is known of a run. Its clock starts at once.

    Args:
        run: what is trained.
        options: where and how.
        step: name of the way in which iterations are made.
        history: the failed attempts before this one.
    """

    def __init__(self, run: Run, options: Options, step: str, history: Sequence[Attempt] = ()) -> None:
        self.run, self.options, self.step, self.history = run, options, step, history
        self.dataset: Dataset | None = None
        self.url: str | None = None  # see `Logger.start`
        self.init: list[LayerEntry] = []  # report of the initialisation
        self.init_passes: int | None = None  # its forward passes
        self.set_aside: list[str] = []  # reasons why checkpoints could not be used
        self._resumed_at = 0
        self._earlier_parts: list[dict[str, Any]] = []
        self._begin = time.perf_counter()  # `resume` moves it back by the seconds of the earlier parts

    def resume(self, state: dict[str, Any]) -> None:
        """Continue the record of an interrupted training from the state in its checkpoint."""
        self.init = state["record"]["init"]
        self.init_passes = state["record"].get("init_passes")  # checkpoints of earlier versions lack it
        self.set_aside += state["record"].get("set_aside", [])  # as do these
        self._earlier_parts = state["record"]["parts"]
        self._begin -= state["record"]["seconds"]
        self._resumed_at = state["iteration"]

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the record: plain data, see `resume`."""
        seconds = time.perf_counter() - self._begin
        return {
            "init": self.init,
            "init_passes": self.init_passes,
            "parts": self._parts(),
            "seconds": seconds,
            "set_aside": self.set_aside,
        }

    def result(self, status: Status, **outcome: Any) -> Result:
        """Build the Result of a training that has ended.

        Args:
            status: how it ended.
            outcome: the fields of Result that depend on how it ended.
        """
        known: dict[str, Any] = {"data_label": self.run.dataset}
        if self.dataset is not None:
            known = {
                "data_label": self.dataset.label,
                "fingerprint": self.dataset.fingerprint,
                "classes": len(self.dataset.classes),
                "test_images": len(self.dataset.test_labels),
            }
        parts = self._parts()
        return Result(
            run=self.run,
            status=status,
            init=self.init,
            init_passes=self.init_passes,
            seconds=time.perf_counter() - self._begin,
            options=self.options.plain(),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            history=list(self.history),
            parts=parts if len(parts) > 1 else None,
            set_aside=self.set_aside or None,
            url=self.url,
            **environment_record(self.options, self.step),
            **known,
            **outcome,
        )

    def _parts(self) -> list[dict[str, Any]]:
        """List the parts of the run: a new one begins each time the code or the machine changes."""
        current = environment_record(self.options, self.step)
        earlier = self._earlier_parts
        if earlier and earlier[-1] == {"from": earlier[-1]["from"], **current}:
            return earlier
        return [*earlier, {"from": self._resumed_at, **current}]


def weights_sha256(net: nn.Module) -> str:
    """Return the sha256 (hexadecimal) over the state dict in its order: name, dtype, shape and bytes of each tensor.

    It compares two runs bit by bit without keeping their weights. The bytes are those of the dense row-major tensor on
    the CPU, so neither the device nor the memory format matters.
    """
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
    return digest.hexdigest()
