"""The learning curve: a row of `curve.csv` each time the training set was seen once more, and at the end."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl

from replicate.store.curve import COLUMNS, Row, to_csv
from replicate.store.lease import Lease
from replicate.store.run_folder import CURVE
from replicate.training.logger import Logger
from replicate.training.module import Classifier

PROGRESS_SECONDS = 0.5  # between two reports


class Curve(pl.Callback):
    """Writes a row after each evaluation of the test set, and reports progress.

    Accuracies are in %, losses in nats. The training columns are means since the previous row, with dropout and
    augmentation; the test columns are of the plain test images without dropout. Once a row is written it is on the
    disk, so an interrupted run leaves its curve so far.

    Args:
        lease: of the run; the file is written from the start.
        images: N, the size of the training set.
        batch_size: images per iteration.
        loggers: are told of progress and of each row.
    """

    def __init__(self, lease: Lease, images: int, batch_size: int, loggers: Sequence[Logger] = ()) -> None:
        self.rows: list[Row] = []
        self.lease, self.images, self.batch_size, self.loggers = lease, images, batch_size, loggers
        self._seconds = 0.0
        self._started_at: float | None = None  # None: the clock is stopped
        self._reported_at = time.perf_counter()
        self._train = (float("nan"), float("nan"))
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The rows and the clock."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from these rows; what the file holds beyond them is trained again."""
        self.rows, self._seconds = state_dict["rows"], state_dict["seconds"]
        self._write()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, without evaluations."""
        return self._seconds + (0.0 if self._started_at is None else time.perf_counter() - self._started_at)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock: what is done in here is no training."""
        running = self._started_at is not None
        self._stop()
        try:
            yield
        finally:
            if running:
                self._start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report progress, not too often."""
        if (now := time.perf_counter()) - self._reported_at >= PROGRESS_SECONDS:
            self._reported_at = now
            assert isinstance(pl_module, Classifier)
            self._report(pl_module.iteration)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the training columns of the row and stop the clock; reading the totals waits for the device."""
        assert isinstance(pl_module, Classifier)
        self._train = pl_module.take("train")
        self._stop()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the row."""
        assert isinstance(pl_module, Classifier)
        iteration = pl_module.iteration
        lr = pl_module.learning_rate(iteration - 1)  # of the last step that was taken
        epoch = iteration * self.batch_size / self.images
        row = dict(zip(COLUMNS, (iteration, epoch, lr, *self._train, *pl_module.take("val")), strict=True))
        self.rows.append(row)
        self._write()  # the whole file: an appended row could be torn, or another process's
        for logger in self.loggers:
            logger.row(row)
        self._report(iteration)
        self._start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._stop()

    def _report(self, iteration: int) -> None:
        for logger in self.loggers:
            logger.progress(iteration, self.rows[-1]["test_accuracy"] if self.rows else None)

    def _write(self) -> None:
        self.lease.write(CURVE, to_csv(self.rows))

    def _start(self) -> None:
        self._started_at = time.perf_counter()

    def _stop(self) -> None:
        self._seconds, self._started_at = self.seconds, None
