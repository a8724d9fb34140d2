"""The learning curve: a row of `curve.csv` each time the training set was seen once more, and at the end."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl

from replicate.store.curve import COLUMNS, Row, to_csv
from replicate.store.lease import Lease
from replicate.store.run_folder import CURVE
from replicate.training.module import Classifier

PROGRESS_SECONDS = 0.5

Progress = Callable[[int, float | None], None]


class Curve(pl.Callback):
    """Writes a row after each evaluation of the test set, and tells how far the run is.

    Accuracies are in %, losses in nats. The training columns are means since the row before, with dropout and
    augmentation on; the test columns are of the plain test images with dropout off. Once a row is written it is on the
    disk, so a run that is cut off leaves its curve so far.

    Args:
        lease: of the run; the file is written from the start.
        images: N, the size of the training set.
        batch_size: images an iteration.
        progress: called with the iteration and the latest test accuracy in %, about twice a second and at every row.
        mirror: called with each row.
    """

    def __init__(
        self,
        lease: Lease,
        images: int,
        batch_size: int,
        progress: Progress | None = None,
        mirror: Callable[[Row], None] | None = None,
    ) -> None:
        self.rows: list[Row] = []
        self.lease, self.images, self.batch_size = lease, images, batch_size
        self.progress = progress or (lambda iteration, accuracy: None)
        self.mirror = mirror or (lambda row: None)
        self.training_seconds = 0.0
        self._resumed = self._told = time.perf_counter()
        self._train = (float("nan"), float("nan"))
        self._running = False
        self._write()

    def take_up(self, rows: list[Row], training_seconds: float) -> None:
        """Go on from the rows of a checkpoint; what the file holds beyond them is trained again."""
        self.rows, self.training_seconds = rows, training_seconds
        self._write()

    def elapsed(self) -> float:
        """Seconds of training so far, evaluations left out."""
        return self.training_seconds + (time.perf_counter() - self._resumed if self._running else 0.0)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock: what is done in here is no training."""
        self.training_seconds, running, self._running = self.elapsed(), self._running, False
        try:
            yield
        finally:
            self._resumed, self._running = time.perf_counter(), running

    def _write(self) -> None:
        self.lease.write(CURVE, to_csv(self.rows))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._resumed, self._running = time.perf_counter(), True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell how far the run is, not too often."""
        if (now := time.perf_counter()) - self._told >= PROGRESS_SECONDS:
            self._told = now
            self.progress(_iteration(pl_module), self.rows[-1]["test_accuracy"] if self.rows else None)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the training columns of the row and stop the clock; reading the totals waits for the device."""
        assert isinstance(pl_module, Classifier)
        self._train = pl_module.take("train")
        self.training_seconds, self._running = self.elapsed(), False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row."""
        assert isinstance(pl_module, Classifier)
        iteration = pl_module.iteration
        lr = pl_module.learning_rate(iteration - 1)  # the rate of the last step that was taken
        epoch = iteration * self.batch_size / self.images
        row = dict(zip(COLUMNS, (iteration, epoch, lr, *self._train, *pl_module.take("val")), strict=True))
        self.rows.append(row)
        self._write()  # the whole file: an appended row could be torn, or another process's
        self.mirror(row)
        self.progress(iteration, row["test_accuracy"])
        self._resumed, self._running = time.perf_counter(), True


def _iteration(module: pl.LightningModule) -> int:
    assert isinstance(module, Classifier)
    return module.iteration
