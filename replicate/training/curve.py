"""The learning curve: a row of `curve.csv` each time the training set was seen once more, and at the end."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from replicate.results import write_atomically
from replicate.training.module import Classifier

COLUMNS = ("iteration", "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
PROGRESS_SECONDS = 0.5

Progress = Callable[[int, float | None], None]


class Curve(pl.Callback):
    """Writes a row after each evaluation of the test set, and tells how far the run is.

    Accuracies are in %, losses in nats. The training columns are means since the row before, with dropout and
    augmentation on; the test columns are of the plain test images with dropout off. Once a row is written it is on the
    disk, so a run that is cut off leaves its curve so far.

    Args:
        path: of the CSV file, which is written anew.
        images: N, the size of the training set.
        batch_size: images an iteration.
        progress: called with the iteration and the latest test accuracy in %, about twice a second and at every row.
        mirror: called with each row.
        scratch: as in results.write_atomically.
    """

    def __init__(
        self,
        path: Path,
        images: int,
        batch_size: int,
        progress: Progress | None = None,
        mirror: Callable[[dict[str, float]], None] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.rows: list[dict[str, float]] = []
        self.path, self.images, self.batch_size, self.scratch = path, images, batch_size, scratch
        self.progress = progress or (lambda iteration, accuracy: None)
        self.mirror = mirror or (lambda row: None)
        self.training_seconds = 0.0
        self._resumed = self._told = time.perf_counter()
        self._train = (float("nan"), float("nan"))
        self._running = False
        self._write()

    def take_up(self, rows: list[dict[str, float]], training_seconds: float) -> None:
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
        lines = [",".join(COLUMNS), *(_line(row) for row in self.rows)]
        write_atomically(self.path, "".join(f"{line}\n" for line in lines), self.scratch)

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


def _line(row: dict[str, float]) -> str:
    return ",".join(f"{value:.10g}" for value in row.values())


def _iteration(module: pl.LightningModule) -> int:
    assert isinstance(module, Classifier)
    return module.iteration
