"""What is measured during a training: the learning curve, `curve.csv`, and the layers, `layers.json`."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init.forward import measurement_mode
from replicate.init.layers import WeightLayer
from replicate.init.measure import Moments, finite, moments
from replicate.init.survey import Survey
from replicate.init.tracking import Call, track_calls
from replicate.nn.statistics import ActivationStatistics, activation_statistics
from replicate.store.lease import Lease
from replicate.store.measurements import COLUMNS, SNAPSHOTS, Layer, Row, Snapshot, curve_csv, layers_json
from replicate.store.run_folder import CURVE, LAYERS
from replicate.training.logger import Logger, Progress
from replicate.training.module import Batch

EARLY = 1000  # the iteration of the snapshot of the layers between the first and the last
SPECTRUM = 64  # singular values to keep for each layer
PROGRESS_SECONDS = 0.5  # between two reports


class Curve(pl.Callback):
    """Writes a row after each evaluation of the test set, and reports progress.

    Accuracies are in %, losses in nats. The training columns are means since the previous row, with dropout and
    augmentation; the test columns are of the plain test images without dropout. Each row is on the disk at once, so an
    interrupted run leaves its curve so far.

    Args:
        lease: of the run; an empty curve is written at once.
        images: N, the size of the training set.
        batch_size: images per iteration.
        progress: receives the progress.
        logger: receives each row.
    """

    def __init__(self, lease: Lease, images: int, batch_size: int, progress: Progress, logger: Logger) -> None:
        self.rows: list[Row] = []
        self.seconds = 0.0  # of training, without evaluations, until the clock was last stopped
        self.lease, self.images, self.batch_size = lease, images, batch_size
        self.progress, self.logger = progress, logger
        self._reported_at = time.perf_counter()
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows and the clock, for a checkpoint."""
        with self.paused():
            return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from these rows; later rows in the file are trained again."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]
        self._write()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for the block, which is not training."""
        self._stop_clock()
        yield
        self._start_clock()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self._start_clock()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Report progress, not too often."""
        if (now := time.perf_counter()) - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            self.progress(pl_module.iteration, self.rows[-1]["test_accuracy"] if self.rows else None)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Close the training columns of the row and stop the clock; reading the totals waits for the device."""
        self._train = pl_module.take("train")
        self._stop_clock()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the row."""
        iteration = pl_module.iteration
        lr = pl_module.learning_rate(iteration - 1)  # of the last step
        epoch = iteration * self.batch_size / self.images
        row = dict(zip(COLUMNS, (iteration, epoch, lr, *self._train, *pl_module.take("val")), strict=True))
        self.rows.append(row)
        self._write()  # the whole file: an appended row could be torn, or another process's
        self.logger.row(row)
        self.progress(iteration, row["test_accuracy"])
        self._start_clock()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop the clock."""
        self._stop_clock()

    def _write(self) -> None:
        self.lease.write(CURVE, curve_csv(self.rows))

    def _start_clock(self) -> None:
        self._started_at = time.perf_counter()

    def _stop_clock(self) -> None:
        self.seconds += time.perf_counter() - self._started_at


def snapshot_iterations(iterations: int) -> tuple[int, ...]:
    """Return the iterations at which a run is measured: after initialisation, after 1,000, and at its end.

    Args:
        iterations: of the whole run.
    """
    return (0, EARLY, iterations) if iterations > EARLY else (0, iterations)


class Layers(pl.Callback):
    """Takes a snapshot of the layers at the data module's boundaries, and writes the whole file each time.

    It comes before the callback that saves checkpoints, so that a checkpoint holds the snapshot of its iteration.

    Args:
        lease: of the run; a file without snapshots is written at once.
        fingerprint: of the data.
        batch: images and labels on which everything is measured.
        curve: its clock is stopped during a measurement.
        logger: receives each snapshot.
    """

    def __init__(self, lease: Lease, fingerprint: str, batch: Batch, curve: Curve, logger: Logger) -> None:
        self.snapshots: tuple[Snapshot, ...] = ()
        self.lease, self.fingerprint, self.batch, self.curve, self.logger = lease, fingerprint, batch, curve, logger
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots as plain data, for a checkpoint."""
        return {"snapshots": SNAPSHOTS.dump_python(self.snapshots)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from these snapshots; later ones in the file are measured again."""
        self.snapshots = SNAPSHOTS.validate_python(state_dict["snapshots"], strict=False)
        self._write()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Measure the initialised network, unless the run continues from a checkpoint."""
        self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Measure if the iteration is a boundary and has not been measured yet."""
        measured = {snapshot.iteration for snapshot in self.snapshots}
        if pl_module.iteration not in trainer.datamodule.boundaries or pl_module.iteration in measured:
            return
        with self.curve.paused():
            snapshot = Snapshot(pl_module.iteration, measure_layers(pl_module.net, *self.batch))
            self.snapshots += (snapshot,)
            self._write()
            self.logger.snapshot(snapshot)

    def _write(self) -> None:
        self.lease.write(LAYERS, layers_json(self.lease.folder.run_id, self.fingerprint, self.snapshots))


def measure_layers(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Layer, ...]:
    """Measure every weight layer on one batch, in float32 without dropout. The net and its gradients do not change.

    Batch normalisation uses the statistics of the batch, as in training.

    Args:
        net: maps images to logits.
        images: (n, c, h, w).
        labels: (n,).

    Returns:
        One entry per layer or maxout piece, in the order of the forward pass. `variance`: biased, of all values of
        the pre-activation. `gradient_norm`: L2 norm of the gradient of the mean loss by the weight of the piece,
        without weight decay. `singular_values`: of the weight as a matrix (out, fan_in), descending, at most 64 of
        them, at evenly spaced ranks from the largest to the smallest. `saturated`, `dead`: shares of the layer as a
        whole, by `activation_statistics`; None if no activation follows it. A value that float32 cannot hold is None.
    """
    seen: dict[WeightLayer, list[Moments]] = {}
    after: dict[WeightLayer, ActivationStatistics] = {}
    modules = dict(net.named_modules())

    def see(layer: WeightLayer, call: Call) -> None:
        seen[layer] = [moments(values) for values in call.values()]
        if (activation := modules.get(f"{layer.name}_act")) is not None:  # as `build` names it
            norm = modules.get(f"{layer.name}_norm", nn.Identity())
            after[layer] = activation_statistics(activation, norm(call.function_call.output.detach()))

    with measurement_mode(net, dropout=False), torch.enable_grad():
        for module in modules.values():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.train()
        with track_calls(Survey(net), see):
            loss = F.cross_entropy(net(images), labels)
        # Unlike backward(), it does not touch the gradients that training has left.
        gradients = torch.autograd.grad(loss, [layer.parameter for layer in seen])
    return tuple(
        Layer(
            name=layer.name,
            piece=piece,
            variance=_number(found.variance),
            # n·k in … -> n k in … -> n in …; in float64, which no sum of finite squares overflows
            gradient_norm=_number(float(torch.unflatten(gradient, 0, (-1, layer.pieces))[:, piece].double().norm())),
            singular_values=tuple(_spectrum(layer.part(layer.weight, piece))),
            saturated=_number(after[layer].saturated) if layer in after else None,
            dead=_number(after[layer].dead) if layer in after else None,
        )
        for (layer, pieces), gradient in zip(seen.items(), gradients, strict=True)
        for piece, found in enumerate(pieces)
    )


def _spectrum(weight: Tensor) -> list[float | None]:
    matrix = weight.float().flatten(1).cpu()
    ranks = min(matrix.shape)
    kept = min(ranks, SPECTRUM)
    picks = [round(i * (ranks - 1) / max(1, kept - 1)) for i in range(kept)]
    try:
        values = torch.linalg.svdvals(matrix).tolist() if bool(torch.isfinite(matrix).all()) else []
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it did not converge, which must not end a training
        values = []
    return [_number(values[pick]) if values else None for pick in picks]


def _number(value: float) -> float | None:
    # float32 holds seven digits; more would only make the file larger.
    return None if finite(value) is None else float(f"{value:.7g}")
