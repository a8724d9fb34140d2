"""Checkpoints: all that a run needs to continue as if it had never been interrupted."""

import io
import signal
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import pytorch_lightning as pl
import torch

from replicate.data.datamodule import DeviceData
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.run_folder import CHECKPOINT, RunFolder
from replicate.training.distributed import SingleProcess
from replicate.training.module import Classifier

SCHEMA = 2
MAX_BYTES = 2**32  # the widest net that fits a GPU has less
# SIGINT is for the matrix to hear; SLURM and submitit warn by the user signals before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StoppedError(Exception):
    """A signal ended the run; its checkpoint is on the disk."""


class Stateful(Protocol):
    """Something that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """Give its state: tensors and plain data."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object:
        """Continue from such a state."""


class Checkpoint(pl.Callback):
    """Saves the state of a training from time to time, and when a signal asks it to stop, which then ends the training.

    It comes after the other callbacks, so that it saves what they have written. At the end of an epoch it saves after
    the evaluation, never before. All ranks save and stop after the same iteration, whichever of them got the signal.

    Args:
        parts: what has a state, by name; the optimiser's and the random generators' are added.
        every: seconds between two checkpoints.
        save: writes a state; None: rank 0 does.

    Raises:
        StoppedError: from the training, after a signal.
    """

    def __init__(
        self,
        parts: Mapping[str, Stateful],
        every: float,
        save: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.parts, self.every, self.save = parts, every, save
        self._resumed: tuple[dict[str, Any], dict[str, Any]] | None = None  # states of the optimiser and this rank
        self._saved_at = time.monotonic()
        self._signal: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def restore(self, state: dict[str, Any], group: SingleProcess) -> None:
        """Continue from a state; the optimiser and the random generators follow when the training starts."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self._resumed = state["optimizer"], _state_for_rank(state["ranks"], group)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals. The optimiser exists only now, and nothing draws random numbers any more."""
        self._handlers = {one: signal.signal(one, self._note) for one in SIGNALS}
        if self._resumed is not None:
            optimizer, rank = self._resumed
            module = _classifier(pl_module)
            # The groups hold the run's settings, and how this process takes a step: fused on a GPU, whoever saved.
            groups = module.optimizer.state_dict()["param_groups"]
            module.optimizer.load_state_dict({**optimizer, "param_groups": groups})
            module.totals["train"] = rank["totals"]
            _set_generators(module.device.type, rank["generators"])
            self._resumed = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time, but leave the end of an epoch to on_validation_end."""
        if _classifier(pl_module).iteration not in _epoch_ends(trainer):
            self._save_if_due(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time."""
        if _classifier(pl_module).iteration < _epoch_ends(trainer)[-1]:
            self._save_if_due(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back, before Lightning does the same with its own."""
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
        self._handlers = {}

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.on_train_end(trainer, pl_module)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = number

    def _save_if_due(self, pl_module: pl.LightningModule) -> None:
        module = _classifier(pl_module)
        stop, due = module.group.any_rank(self._signal, time.monotonic() - self._saved_at >= self.every)
        if stop is None and not due:
            return
        ranks = module.group.gather({"totals": module.totals["train"], "generators": _generators(module.device.type)})
        if self.save is not None:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            optimizer = module.optimizer.state_dict()
            self.save({"iteration": module.iteration, "optimizer": optimizer, "ranks": ranks, **states})
        self._saved_at = time.monotonic()
        if stop is not None:
            raise StoppedError(signal.Signals(stop).name)


def identity(run: Run, fingerprint: str) -> str:
    """What a checkpoint is of: a run on the data with this fingerprint."""
    return f"{run.run_id} {fingerprint}"


def write(lease: Lease, identity: str, state: dict[str, Any]) -> None:
    """Write the checkpoint of a run. Raises as `Lease.write`."""
    file = io.BytesIO()  # written to the disk by torch, a full disk would be a RuntimeError without its errno
    torch.save({"schema": SCHEMA, "identity": identity, **state}, file)
    lease.write(CHECKPOINT, file.getvalue())


def load(lease: Lease, identity: str, device: str) -> dict[str, Any] | None:
    """Read the checkpoint of a run; set one aside that cannot be used, so that the run starts again.

    Args:
        lease: of the run.
        identity: of the run and its data.
        device: where the tensors are wanted.

    Returns:
        The state; None if there is none to resume from.
    """
    try:
        return read(lease.folder, identity, device)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a torn or foreign file makes of the reader
        path = lease.folder.checkpoint
        print(f"{path} cannot be resumed from ({error!r}); set aside as {lease.set_aside(CHECKPOINT)}")
        return None


def read(folder: RunFolder, identity: str, device: str) -> dict[str, Any]:
    """Read the checkpoint of a run.

    Args:
        folder: of the run.
        identity: of the run and its data.
        device: where the tensors are wanted.

    Raises:
        Exception: there is none, it cannot be read, or it is of another run, other data or another schema.
    """
    path = folder.checkpoint
    _check_size(path)
    # Tensors and plain data alone: a checkpoint from elsewhere cannot run code.
    # By way of the CPU to MPS, which has no float64, in which another device's totals are.
    state: dict[str, Any] = torch.load(path, map_location="cpu" if device == "mps" else device, weights_only=True)
    if state["schema"] != SCHEMA or state["identity"] != identity:
        raise ValueError(f"it is not of schema {SCHEMA}, this run and this data")
    return state


def _check_size(path: Path) -> None:
    """Refuse what torch.save does not write: packed entries, which may unfold without end, and absurd sizes."""
    size = path.stat().st_size
    if not path.is_file() or size > MAX_BYTES:
        raise ValueError(f"it is no plain file of at most {MAX_BYTES:,} bytes")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError("its entries are packed")


def _generators(device: str) -> dict[str, torch.Tensor]:
    """States of the random generators that a training on this device draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device != "cpu":
        states[device] = getattr(torch, device).get_rng_state()
    return states


def _set_generators(device: str, states: dict[str, torch.Tensor]) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())  # a state lives on the CPU, wherever the weights are
    if device != "cpu" and device in states:
        getattr(torch, device).set_rng_state(states[device].cpu())


def _state_for_rank(ranks: list[dict[str, Any]], group: SingleProcess) -> dict[str, Any]:
    """Choose what a rank continues from: the sums of its training loss, and its random generators.

    A run may continue with more or fewer ranks than it had. Then rank 0 gets the sums of all, and a rank that is new
    draws dropout from the beginning of its stream. No other run has such a run's bits; its record names the number of
    processes in each of its parts.

    Args:
        ranks: the state of each rank.
        group: the processes that continue.
    """
    if len(ranks) == group.size:
        return ranks[group.rank]
    totals = torch.stack([rank["totals"].cpu() for rank in ranks]).sum(0) * (group.rank == 0)
    return {"totals": totals, "generators": ranks[group.rank]["generators"] if group.rank < len(ranks) else {}}


def _epoch_ends(trainer: pl.Trainer) -> list[int]:
    data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in fit
    assert isinstance(data, DeviceData)
    return data.epoch_ends


def _classifier(module: pl.LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
