"""Checkpoints: all that a run needs to go on as if it had never been interrupted."""

import io
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from replicate.data.datamodule import DeviceData
from replicate.store.layers import to_plain
from replicate.store.lease import Lease
from replicate.store.run_folder import CHECKPOINT, RunFolder
from replicate.training.curve import Curve
from replicate.training.layers import Layers
from replicate.training.module import Classifier
from replicate.training.stopping import Stops, of_rank, optimizer_of
from replicate.training.team import Alone

SCHEMA = 1
MOST_BYTES = 2**32  # the widest net that fits a GPU has less


class Checkpoints(Stops):
    """Saves the run's state now and then, and when a signal asks it to stop, which then ends the training.

    It must stand behind the Layers and the Curve in the Trainer's callbacks: a state is that after a row was written,
    never between the last iteration of an epoch and its evaluation.

    Args:
        lease: of the run.
        identity: run_id and data fingerprint; a checkpoint of another identity is not taken up.
        data: holds the stream of batches.
        curve: holds the rows so far.
        layers: holds the measurements so far.
        every: seconds between checkpoints.
        init: the initialisation's report, kept for the record.
        parts: of `parts`, likewise.
        seconds: spent on the run in earlier calls.
        state: the state to go on from, of `load`; None for a run that begins.
        team: the processes that train the run, of which this is the first; None: this one alone.

    Raises:
        StoppedError: from the training, after a signal.
    """

    def __init__(
        self,
        lease: Lease,
        identity: str,
        data: DeviceData,
        curve: Curve,
        layers: Layers,
        every: float,
        init: list[dict[str, Any]],
        parts: list[dict[str, Any]],
        seconds: float,
        state: dict[str, Any] | None,
        team: Alone | None = None,
    ) -> None:
        super().__init__(data, every, state, team or Alone())
        self.lease, self.identity = lease, identity
        self.curve, self.layers = curve, layers
        self.init, self.parts, self.seconds = init, parts, seconds
        self._begin = time.monotonic()

    def save(self, module: Classifier, ranks: list[dict[str, Any]]) -> None:
        """Write the checkpoint."""
        state = {
            "schema": SCHEMA,
            "identity": self.identity,
            "iteration": module.iteration,
            "net": module.net.state_dict(),
            "optimizer": optimizer_of(module).state_dict(),
            **ranks[0],
            "ranks": ranks[1:],
            "stream": self.data.stream.state(),
            "rows": self.curve.rows,
            "layers": to_plain(self.layers.snapshots),
            "training_seconds": self.curve.elapsed(),
            "init": self.init,
            "parts": self.parts,
            "seconds": self.seconds + time.monotonic() - self._begin,
        }
        file = io.BytesIO()  # written to the disk by torch, a full disk would be a RuntimeError without its errno
        torch.save(state, file)
        self.lease.write(CHECKPOINT, file.getvalue())  # the one before is whole until this one is


def load(lease: Lease, identity: str, device: str) -> dict[str, Any] | None:
    """Read the checkpoint of a run; set one aside that cannot be used, so that the run starts again.

    Args:
        lease: of the run.
        identity: run_id and data fingerprint.
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
        identity: run_id and data fingerprint.
        device: where the tensors are wanted.

    Raises:
        Exception: there is none, it cannot be read, or it is of another run or other data.
    """
    path = folder.checkpoint
    _check_size(path)
    # Tensors and plain data alone: a checkpoint from elsewhere cannot run code.
    # By way of the CPU to MPS, which has no float64, in which another device's totals are.
    state: dict[str, Any] = torch.load(path, map_location="cpu" if device == "mps" else device, weights_only=True)
    if state["schema"] != SCHEMA or state["identity"] != identity:
        raise ValueError("it is not of this run on this data")
    for rank in (state, *state.get("ranks", [])):  # none in a checkpoint from before there were teams
        # These two live on the CPU, wherever the weights are.
        for name in ("rng", "cuda_rng"):
            rank[name] = None if rank[name] is None else rank[name].cpu()
    return state


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


def take_up(state: dict[str, Any], module: Classifier, data: DeviceData) -> None:
    """Put a net and its batches where a checkpoint left them; the optimiser follows when training starts."""
    module.net.load_state_dict(state["net"])
    module.iteration = state["iteration"]
    module.totals["train"] = of_rank(state, module.team)["totals"]
    data.stream.restore(state["stream"])
