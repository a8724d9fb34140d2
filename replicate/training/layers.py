"""Measurements of every layer at a few moments of a training: `layers.json`."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init.layers import WeightLayer, weight_layers
from replicate.init.measure import measuring
from replicate.init.passes import hooked
from replicate.init.variance import Moments, moments
from replicate.store.layers import Layer, Snapshot, from_plain, to_json, to_plain
from replicate.store.lease import Lease
from replicate.store.run_folder import LAYERS
from replicate.training.curve import Curve
from replicate.training.logger import Logger
from replicate.training.module import Batch, Classifier

EARLY = 1000  # the iteration of the moment between the first and the last
SPECTRUM = 64  # singular values that are kept of a layer


def snapshot_iterations(iterations: int) -> tuple[int, ...]:
    """The iterations at which a run of so many is measured: after initialisation, after 1,000, and at its end."""
    return (0, EARLY, iterations) if iterations > EARLY else (0, iterations)


class Layers(pl.Callback):
    """Measures the layers at the data module's chunk boundaries, and writes the whole file each time.

    It comes before the other callbacks: what a checkpoint holds has been measured, and the clock of the Curve, which
    measures the speed of training, does not run yet when the training starts.

    Args:
        lease: of the run; the file is written from the start.
        fingerprint: of the data.
        batch: images and labels on which everything is measured.
        curve: its clock is stopped meanwhile.
        loggers: are told of each snapshot.
    """

    def __init__(
        self, lease: Lease, fingerprint: str, batch: Batch, curve: Curve, loggers: Sequence[Logger] = ()
    ) -> None:
        self.snapshots: tuple[Snapshot, ...] = ()
        self.lease, self.fingerprint, self.batch = lease, fingerprint, batch
        self.curve, self.loggers = curve, loggers
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The snapshots, as plain data."""
        return {"snapshots": to_plain(self.snapshots)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from these snapshots; what the file holds beyond them is measured again."""
        self.snapshots = from_plain(state_dict["snapshots"])
        self._write()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the initialised network, unless the run continues from a checkpoint."""
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is time."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        boundaries = trainer.datamodule.boundaries  # type: ignore[attr-defined]  # Lightning sets it in fit
        measured = {snapshot.iteration for snapshot in self.snapshots}
        if module.iteration not in boundaries or module.iteration in measured:
            return
        with self.curve.paused():
            snapshot = Snapshot(module.iteration, measure(module.net, *self.batch))
            self.snapshots += (snapshot,)
            self._write()
            for logger in self.loggers:
                logger.snapshot(snapshot)

    def _write(self) -> None:
        self.lease.write(LAYERS, to_json(self.lease.folder.run_id, self.fingerprint, self.snapshots))


def measure(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Layer, ...]:
    """Measure every weight layer on one batch, in float32 with dropout off, and leave the net and its gradients alone.

    Args:
        net: maps images to logits.
        images: (n, c, h, w).
        labels: (n,).

    Returns:
        An entry for each layer and maxout piece in the order of the forward pass. `variance`: biased, of all values of
        the pre-activation. `gradient_norm`: L2 norm of the gradient of the mean loss by the weight of the piece, weight
        decay left out. `singular_values`: of the weight as a matrix (out, fan_in), descending, at most 64 of them, at
        evenly spaced ranks from the largest to the smallest. What is not finite is None.
    """
    seen: dict[WeightLayer, list[Moments]] = {}

    def see(layer: WeightLayer, call: Any) -> None:
        seen[layer] = [moments(values) for values in layer.values(call)]

    with measuring(net, dropout=False), torch.enable_grad():
        with hooked(weight_layers(net), see):
            loss = F.cross_entropy(net(images), labels)
        # Not backward(): the gradients that training left stay as they are.
        gradients = torch.autograd.grad(loss, [layer.parameters()[0] for layer in seen])
    return tuple(
        Layer(
            name=layer.name,
            piece=piece,
            variance=_number(found.variance),
            gradient_norm=_number(_norm(gradient, layer.pieces, piece)),
            singular_values=tuple(_spectrum(layer.weight(piece))),
        )
        for (layer, pieces), gradient in zip(seen.items(), gradients, strict=True)
        for piece, found in enumerate(pieces)
    )


def _norm(gradient: Tensor, pieces: int, piece: int) -> float:
    own = torch.unflatten(gradient, 0, (-1, pieces))[:, piece]  # n·k in … -> n k in … -> n in …
    own = own.cpu() if own.device.type == "mps" else own  # which has no float64
    return float(own.double().norm())  # in float64, which no sum of finite squares overflows


def _spectrum(weight: Tensor) -> list[float | None]:
    matrix = weight.float().flatten(1).cpu()
    ranks = min(matrix.shape)
    kept = min(ranks, SPECTRUM)
    picks = [round(i * (ranks - 1) / max(1, kept - 1)) for i in range(kept)]
    try:
        values = torch.linalg.svdvals(matrix).tolist() if bool(torch.isfinite(matrix).all()) else []
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it did not converge: no reason to give up a training
        values = []
    return [_number(values[pick]) if values else None for pick in picks]


def _number(value: float) -> float | None:
    # Seven digits are what float32 holds; beyond them a file only grows.
    return float(f"{value:.7g}") if math.isfinite(value) else None
