"""Checkpoints: all that a run needs to go on as if it had never been interrupted."""

import io
import os
import signal
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from replicate.data.datamodule import DeviceData
from replicate.results import write_atomically
from replicate.training.curve import Curve
from replicate.training.layers import Layers
from replicate.training.module import Classifier

SCHEMA = 1
FILE = "checkpoint.pt"
MOST_BYTES = 2**32  # the widest net that fits a GPU has less
# SIGINT is for the matrix to hear; SLURM and submitit warn by the user signals before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StoppedError(Exception):
    """A signal ended the run; its checkpoint is on the disk."""


class Checkpoints(pl.Callback):
    """Saves the run's state now and then, and when a signal asks it to stop, which then ends the training.

    It must stand behind the Layers and the Curve in the Trainer's callbacks: a state is that after a row was written,
    never between the last iteration of an epoch and its evaluation.

    Args:
        folder: of the run.
        identity: run_id and data fingerprint; a checkpoint of another identity is not taken up.
        data: holds the stream of batches.
        curve: holds the rows so far.
        layers: holds the measurements so far.
        every: seconds between checkpoints.
        init: the initialisation's report, kept for the record.
        parts: of `parts`, likewise.
        seconds: spent on the run in earlier calls.
        state: the state to go on from, of `load`; None for a run that begins.
        scratch: as in results.write_atomically.

    Raises:
        StoppedError: from the training, after a signal.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        data: DeviceData,
        curve: Curve,
        layers: Layers,
        every: float,
        init: list[dict[str, Any]],
        parts: list[dict[str, Any]],
        seconds: float,
        state: dict[str, Any] | None,
        scratch: Path | None = None,
    ) -> None:
        self.path, self.identity, self.scratch = folder / FILE, identity, scratch
        self.data, self.curve, self.layers = data, curve, layers
        self.every, self.init, self.seconds = every, init, seconds
        self.parts, self._state = parts, state
        self._begin = self._saved = time.monotonic()
        self._stop: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, and take up the state: the optimiser is there only now, and nothing draws any more."""
        self._before = {one: signal.signal(one, self._note) for one in SIGNALS}
        if self._state is not None:
            _optimizer(pl_module).load_state_dict(self._state["optimizer"])
            torch.set_rng_state(self._state["rng"])
            if self._state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(self._state["cuda_rng"])
            self._state = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, but leave the end of an epoch to on_validation_end."""
        if _classifier(pl_module).iteration not in self.data.epoch_ends:
            self._save_if_due(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time."""
        if _classifier(pl_module).iteration < self.data.epoch_ends[-1]:
            self._save_if_due(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the signals to whom they belonged, before Lightning does the same with its own."""
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Likewise, where training does not come to its end."""
        self.on_train_end(trainer, pl_module)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._stop = number

    def _save_if_due(self, module: pl.LightningModule) -> None:
        stop, now = self._stop, time.monotonic()
        if stop is None and now - self._saved < self.every:
            return
        self._save(_classifier(module), now)
        self._saved = now
        if stop is not None:
            raise StoppedError(signal.Signals(stop).name)

    def _save(self, module: Classifier, now: float) -> None:
        state = {
            "schema": SCHEMA,
            "identity": self.identity,
            "iteration": module.iteration,
            "net": module.net.state_dict(),
            "optimizer": _optimizer(module).state_dict(),
            "totals": module.totals["train"],
            "stream": self.data.stream.state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if module.device.type == "cuda" else None,
            "rows": self.curve.rows,
            "layers": self.layers.moments,
            "training_seconds": self.curve.elapsed(),
            "init": self.init,
            "parts": self.parts,
            "seconds": self.seconds + now - self._begin,
        }
        file = io.BytesIO()  # written to the disk by torch, a full disk would be a RuntimeError without its errno
        torch.save(state, file)
        write_atomically(self.path, file.getvalue(), self.scratch)  # the one before is whole until this one is


def load(folder: Path, identity: str, device: str) -> dict[str, Any] | None:
    """Read the checkpoint of a run.

    One that cannot be read, or is not this run's on this data, is set aside, and the run begins anew.

    Args:
        folder: of the run.
        identity: run_id and data fingerprint.
        device: where the tensors are wanted.

    Returns:
        The state, or None.
    """
    path = folder / FILE
    try:
        _check_size(path)
        # Tensors and plain data alone: a checkpoint from elsewhere cannot run code.
        state = torch.load(path, map_location=device, weights_only=True)
        if state["schema"] == SCHEMA and state["identity"] == identity:
            # These two live on the CPU, wherever the weights are.
            for name in ("rng", "cuda_rng"):
                state[name] = None if state[name] is None else state[name].cpu()
            return dict(state)
        reason = "it is not of this run on this data"
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a torn or foreign file makes of the reader
        reason = repr(error)
    aside = path.with_name(f"{FILE}.set-aside")
    print(f"{path} cannot be gone on from ({reason}); set aside as {aside.name}")
    os.replace(path, aside)
    return None


def _check_size(path: Path) -> None:
    """Refuse what torch.save does not write: packed entries, which may unfold without end, and absurd sizes."""
    size = path.stat().st_size
    if not path.is_file() or size > MOST_BYTES:
        raise ValueError(f"it is no plain file of at most {MOST_BYTES:,} bytes")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError("its entries are packed")


def parts(state: dict[str, Any] | None, here: dict[str, Any]) -> list[dict[str, Any]]:
    """List who trained which part of a run: an entry each time the code or the machine changed between two calls.

    Args:
        state: the state to go on from; None for a run that begins.
        here: what this call says of itself, plain data.

    Returns:
        The entries, each what a call said of itself and `from`, the iteration from which on.
    """
    if state is None:
        return [{"from": 0, **here}]
    earlier: list[dict[str, Any]] = state.get("parts", [{"from": 0, "commit": "unknown"}])  # older checkpoints
    if earlier[-1] == {"from": earlier[-1]["from"], **here}:
        return earlier
    return [*earlier, {"from": state["iteration"], **here}]


def take_up(state: dict[str, Any], module: Classifier, data: DeviceData, curve: Curve, layers: Layers) -> None:
    """Put a net and all around it where a checkpoint left them; the optimiser follows when training starts."""
    module.net.load_state_dict(state["net"])
    module.iteration = state["iteration"]
    module.totals["train"] = state["totals"]
    data.stream.restore(state["stream"])
    curve.take_up(state["rows"], state["training_seconds"])
    layers.take_up(state.get("layers", []))  # none in a checkpoint from before there were measurements


def _classifier(module: pl.LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module


def _optimizer(module: pl.LightningModule) -> torch.optim.Optimizer:
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer
