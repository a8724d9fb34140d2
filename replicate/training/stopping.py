"""When a run's state is saved, and what ends a run before its time: now and then, and on a signal."""

import signal
import time
from abc import ABC, abstractmethod
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from replicate.data.datamodule import DeviceData
from replicate.training.module import Classifier
from replicate.training.team import Alone

# SIGINT is for the matrix to hear; SLURM and submitit warn by the user signals before they kill.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StoppedError(Exception):
    """A signal ended the run; its checkpoint is on the disk."""


class Stops(pl.Callback, ABC):
    """Has the run's state saved now and then, and when a signal asks it to stop, which then ends the training.

    All processes of a team save and stop after the same iteration, whichever of them was signalled.

    Args:
        data: holds the stream of batches.
        every: seconds between two states.
        state: the state to go on from, of `checkpoint.load`; None for a run that begins.
        team: the processes that train the run.

    Raises:
        StoppedError: from the training, after a signal.
    """

    def __init__(self, data: DeviceData, every: float, state: dict[str, Any] | None, team: Alone) -> None:
        self.data, self.every, self.team = data, every, team
        self._state = of_rank(state, team) if state else None
        self._saved = time.monotonic()
        self._stop: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    @abstractmethod
    def save(self, module: Classifier, ranks: list[dict[str, Any]]) -> None:
        """Write the state, where this process is the one that writes.

        Args:
            module: what is trained.
            ranks: `own` of each process.
        """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, and take up the state: the optimiser is there only now, and nothing draws any more."""
        self._before = {one: signal.signal(one, self._note) for one in SIGNALS}
        if self._state is not None:
            optimizer_of(pl_module).load_state_dict(self._state["optimizer"])
            if self._state["rng"] is not None:
                torch.set_rng_state(self._state["rng"])
            if self._state["cuda_rng"] is not None:
                torch.cuda.set_rng_state(self._state["cuda_rng"])
            if pl_module.device.type == "mps" and "mps_rng" in self._state:
                torch.mps.set_rng_state(self._state["mps_rng"])
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
        stop, due = self.team.wish(self._stop, time.monotonic() - self._saved >= self.every)
        if stop is None and not due:
            return
        self.save(_classifier(module), self.team.gather(own(_classifier(module))))
        self._saved = time.monotonic()
        if stop is not None:
            raise StoppedError(signal.Signals(stop).name)


def own(module: Classifier) -> dict[str, Any]:
    """Collect what one process's state has that another's has not: the generator of its dropout, and its sums."""
    return {
        "totals": module.totals["train"],
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state() if module.device.type == "cuda" else None,
        **({"mps_rng": torch.mps.get_rng_state()} if module.device.type == "mps" else {}),
    }


def of_rank(state: dict[str, Any], team: Alone) -> dict[str, Any]:
    """Put what is one process's own in a state, see `own`, in its place.

    A run may go on with more or fewer processes than it had: then the sums of all are the first one's, and a process
    without a predecessor draws dropout from the beginning of its stream. Such a run's bits are no other's; its record
    names the number of processes in each of its parts.

    Args:
        state: as saved by all, `own` of the first process and those of the others in a list, `ranks`.
        team: that goes on from it.
    """
    ranks = [{key: state[key] for key in ("totals", "rng", "cuda_rng")}, *state.get("ranks", [])]
    if len(ranks) == team.size:
        return {**state, **ranks[team.rank]}
    totals = torch.stack([rank["totals"].cpu() for rank in ranks]).sum(0) * (team.rank == 0)
    drawn = ranks[team.rank] if team.rank < len(ranks) else {"rng": None, "cuda_rng": None}
    return {**state, **drawn, "totals": totals}


def optimizer_of(module: pl.LightningModule) -> torch.optim.Optimizer:
    """Give a module's only optimiser, out of Lightning's wrapper."""
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def _classifier(module: pl.LightningModule) -> Classifier:
    assert isinstance(module, Classifier)
    return module
