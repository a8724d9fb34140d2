"""Checkpoints: everything that a run needs to continue as if it had never been interrupted."""

import hashlib
import io
import os
import signal
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch

from replicate.data.dataset import Dataset
from replicate.errors import transient_kind
from replicate.run import Run
from replicate.store.fields import as_line
from replicate.store.files import NotPlainFileError
from replicate.store.lease import Lease
from replicate.store.run_folder import CHECKPOINT, RunFolder
from replicate.training.checkpoint_state import check_state
from replicate.training.distributed import SingleProcess

SCHEMA = 2
MAX_BYTES = 2**32  # more than the widest net that fits on a GPU needs
GENERATORS: dict[str, Any] = {"cpu": torch, "cuda": torch.cuda}  # the random generators that a training draws from
# SIGINT is the matrix's. SLURM and submitit send user signals as a warning before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StoppedError(Exception):
    """A signal ended the run; its checkpoint is on the disk."""


class CheckpointOnSignal(pl.Callback):
    """Saves the state of a training at intervals and when a signal asks it to stop, which then ends the training.

    It comes after the other callbacks, so that it saves what they have written. At the end of an epoch it saves after
    the evaluation, never before. All ranks save and stop after the same iteration, whichever of them got the signal.

    Args:
        parts: the objects to save, by name; each has `state_dict` and `load_state_dict`. The states of the optimiser
            and the random generators are added.
        every: seconds between two checkpoints.
        save: writes a state; None: rank 0 does.

    Raises:
        StoppedError: from the training, after a signal.
    """

    def __init__(
        self, parts: Mapping[str, Any], every: float, save: Callable[[dict[str, Any]], None] | None = None
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

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Handle signals. Restore the optimiser, which did not exist before, and the generators, which start now."""
        self._handlers = {one: signal.signal(one, self._on_signal) for one in SIGNALS}
        if self._resumed is not None:
            optimizer, rank = self._resumed
            # The groups hold the run's settings, and whether this process's step is fused, not the saving one's.
            groups = pl_module.optimizer.state_dict()["param_groups"]
            pl_module.optimizer.load_state_dict({**optimizer, "param_groups": groups})
            pl_module.totals["train"] = rank["totals"]
            for name in rank["generators"].keys() & {"cpu", pl_module.device.type}:
                GENERATORS[name].set_rng_state(rank["generators"][name].cpu())  # even if `load` has put it on a GPU

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Save if it is time, but leave the end of an epoch to on_validation_end."""
        if pl_module.iteration not in trainer.datamodule.epoch_ends:
            self._save_if_due(pl_module)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save if it is time."""
        if pl_module.iteration < trainer.datamodule.epoch_ends[-1]:
            self._save_if_due(pl_module)

    def on_train_end(self, *_: Any) -> None:
        """Restore the signal handlers, before Lightning does the same with its own."""
        for one, handler in self._handlers.items():
            signal.signal(one, handler)
        self._handlers = {}

    def on_exception(self, *_: Any) -> None:
        """Restore the signal handlers."""
        self.on_train_end()

    def _on_signal(self, number: int, _: object) -> None:
        self._signal = number

    def _save_if_due(self, module: Any) -> None:
        asked = module.group.gather({"signal": self._signal, "due": time.monotonic() - self._saved_at >= self.every})
        stop = next((one["signal"] for one in asked if one["signal"] is not None), None)
        if stop is None and not any(one["due"] for one in asked):
            return
        generators = {name: GENERATORS[name].get_rng_state() for name in ("cpu", module.device.type)}
        ranks = module.group.gather({"totals": module.totals["train"].cpu(), "generators": generators})
        if self.save is not None:
            states = {name: part.state_dict() for name, part in self.parts.items()}
            optimizer = module.optimizer.state_dict()
            self.save({"iteration": module.iteration, "optimizer": optimizer, "ranks": ranks, **states})
        self._saved_at = time.monotonic()
        if stop is not None:
            raise StoppedError(signal.Signals(stop).name)


def _state_for_rank(ranks: list[dict[str, Any]], group: SingleProcess) -> dict[str, Any]:
    """Choose what a rank continues from: the sums of its training loss, and its random generators.

    A run may continue with more or fewer ranks than before. Then rank 0 gets the sums of all, and a new rank draws its
    dropout masks from the beginning of its stream. Such a run has bits of its own; its record names the number of
    processes of each of its parts.

    Args:
        ranks: the state of each rank.
        group: the processes that continue.
    """
    if len(ranks) == group.size:
        return ranks[group.rank]
    totals = torch.stack([rank["totals"].cpu() for rank in ranks]).sum(0) * (group.rank == 0)
    return {"totals": totals, "generators": ranks[group.rank]["generators"] if group.rank < len(ranks) else {}}


def write(lease: Lease, fingerprint: str, state: dict[str, Any]) -> None:
    """Write the checkpoint of a run on the data with this fingerprint. Raises the same errors as `Lease.write`."""
    lease.write(CHECKPOINT, pack({"schema": SCHEMA, "identity": f"{lease.folder.run_id} {fingerprint}", **state}))


def pack(state: dict[str, Any]) -> bytes:
    """The content of `checkpoint.pt`: what `torch.load` reads, and its sha256, because `torch.load` checks nothing."""
    file = io.BytesIO()  # if torch wrote to the disk, a full disk would be a RuntimeError without its errno
    torch.save(state, file)
    digest = hashlib.sha256(file.getbuffer()).digest()
    file.seek(0, os.SEEK_END)
    file.write(digest)
    return file.getvalue()


def load(
    lease: Lease, run: Run, dataset: Dataset, device: str, set_aside: Callable[[str], None]
) -> dict[str, Any] | None:
    """Read the checkpoint of a run. One that cannot be used is set aside, so that the run starts again.

    Args:
        lease: of the run.
        run: what is trained.
        dataset: on what.
        device: where to put the tensors.
        set_aside: called with the reason if the checkpoint cannot be used.

    Returns:
        The state; None if there is none to resume from.

    Raises:
        Exception: the file cannot be read now, or there is no memory for it.
    """
    try:
        state = read(lease.folder, dataset.fingerprint, device)
        check_state(state, run, dataset)
        return state
    except FileNotFoundError:
        return None
    except Exception as error:  # a torn or foreign file can make the reader raise anything
        passing = isinstance(error, OSError) or transient_kind(error) is not None
        if passing and not isinstance(error, NotPlainFileError):  # the file may be sound
            raise
        reason = " ".join(" ".join(traceback.format_exception_only(error)).split())
        note = as_line(f"{lease.set_aside(CHECKPOINT)}: {reason}")
        print(f"the checkpoint cannot be used, and was set aside as {note}")
        set_aside(note)
        return None


def read(folder: RunFolder, fingerprint: str, device: str) -> dict[str, Any]:
    """Read the checkpoint of a run, and check that it is whole; `check_state` checks what it holds.

    Args:
        folder: of the run.
        fingerprint: of its data.
        device: where to put the tensors.

    Raises:
        Exception: there is none, it cannot be read, or it is of another run, other data or another schema.
    """
    content = folder.read(CHECKPOINT, MAX_BYTES)
    view, size = memoryview(content), hashlib.sha256().digest_size
    if hashlib.sha256(view[:-size]).digest() != view[-size:]:
        raise ValueError("its checksum is wrong, so it was damaged, or an earlier version saved it")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.save does not compress
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise ValueError("its entries expand to more than its size")
    # Only tensors and plain data are loaded: another person's checkpoint cannot run code.
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    if state["schema"] != SCHEMA or state["identity"] != f"{folder.run_id} {fingerprint}":
        raise ValueError(f"it is not of schema {SCHEMA}, this run and this data")
    return state
