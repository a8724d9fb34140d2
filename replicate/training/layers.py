"""Measurements of every layer at a few moments of a training: `layers.json`."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init.layers import WeightLayer, weight_layers
from replicate.init.measure import measuring
from replicate.init.passes import hooked
from replicate.init.ranks import Moments, moments
from replicate.results import write_atomically
from replicate.training.curve import Curve
from replicate.training.module import Classifier
from replicate.training.steps import Batch

SCHEMA = 1
FILE = "layers.json"
EARLY = 1000  # the iteration of the moment between the first and the last
SPECTRUM = 64  # singular values that are kept of a layer

Moment = dict[str, Any]
"""`{"iteration": 0, "layers": [{"name", "piece", "variance", "gradient_norm", "singular_values"}, …]}`"""


def moments_of(iterations: int) -> tuple[int, ...]:
    """The iterations at which a run of so many is measured: after initialisation, after 1,000, and at its end."""
    return (0, EARLY, iterations) if iterations > EARLY else (0, iterations)


class Layers(pl.Callback):
    """Measures the layers at some iterations, and writes the file anew each time.

    It must stand before the Curve and the Checkpoints in the Trainer's callbacks: what a checkpoint holds was measured,
    and the Curve's clock, which measures the speed of training, does not run yet when training starts.

    Args:
        path: of the JSON file, which is written anew.
        run_id: of the run.
        fingerprint: of the data.
        batch: the images and labels on which all is measured, always the same.
        at: the iterations; the data module must end a chunk at each.
        curve: its clock stands still meanwhile.
        mirror: called with each moment.
        scratch: as in results.write_atomically.
    """

    def __init__(
        self,
        path: Path,
        run_id: str,
        fingerprint: str,
        batch: Batch,
        at: Sequence[int],
        curve: Curve,
        mirror: Callable[[Moment], None] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.moments: list[Moment] = []
        self.path, self.run_id, self.fingerprint = path, run_id, fingerprint
        self.batch, self.at, self.curve = batch, at, curve
        self.mirror = mirror or (lambda moment: None)
        self.scratch = scratch
        self._write()

    def take_up(self, moments: list[Moment]) -> None:
        """Go on from the moments of a checkpoint; what the file holds beyond them is measured again."""
        self.moments = moments
        self._write()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what the initialisation has made, unless the run goes on from a checkpoint."""
        self._measure(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if it is time."""
        self._measure(pl_module)

    def _measure(self, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        known = {moment["iteration"] for moment in self.moments}
        if module.iteration not in self.at or module.iteration in known:
            return
        with self.curve.paused():
            moment = {"iteration": module.iteration, "layers": measure(module.net, *self.batch)}
            self.moments.append(moment)
            self._write()
            self.mirror(moment)

    def _write(self) -> None:
        content = {"schema": SCHEMA, "run_id": self.run_id, "fingerprint": self.fingerprint, "moments": self.moments}
        text = json.dumps(content, separators=(",", ":"), allow_nan=False)
        write_atomically(self.path, text + "\n", self.scratch)


def measure(net: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
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
    return [
        {
            "name": layer.name,
            "piece": piece,
            "variance": _number(found.variance),
            "gradient_norm": _number(_norm(gradient, layer.pieces, piece)),
            "singular_values": _spectrum(layer.weight(piece)),
        }
        for (layer, pieces), gradient in zip(seen.items(), gradients, strict=True)
        for piece, found in enumerate(pieces)
    ]


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
