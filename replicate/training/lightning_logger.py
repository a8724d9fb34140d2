"""Logs a training with one of Lightning's own loggers."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from replicate.run import Run
from replicate.store.measurements import Row, Snapshot
from replicate.store.result import Result
from replicate.training.logger import Logger, errors_are_printed


class LightningLogger(Logger):
    """Writes a run's metrics to `csv/metrics.csv` or as TensorBoard's events to `tensorboard/`, in the run's folder.

    A resumed run is logged again from its beginning, so no row is there twice. Errors are printed, and the training
    continues.

    Args:
        run: becomes the hyperparameters.
        kind: `csv` or `tensorboard`, which names the folder too.
        folder: the run's.
    """

    def __init__(self, run: Run, kind: str, folder: Path) -> None:
        self._run, self._kind, self._folder = run, kind, folder
        self._logger: CSVLogger | TensorBoardLogger | None = None  # until it has started

    @errors_are_printed("logger")
    def start(self, fingerprint: str) -> None:
        """Remove what an earlier attempt has logged, and log the hyperparameters."""
        shutil.rmtree(self._folder / self._kind, ignore_errors=True)
        where: Any = {"save_dir": self._folder, "name": "", "version": self._kind}
        tensorboard = self._kind == "tensorboard"
        self._logger = TensorBoardLogger(**where, default_hp_metric=False) if tensorboard else CSVLogger(**where)
        self._logger.log_hyperparams(asdict(self._run))

    def initialized(
        self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]
    ) -> None:
        """Log the variances after the initialisation, and what a resumed run has so far."""
        self._log({f"init/variance/{entry['layer']}/{entry['piece']}": entry["variance"] for entry in init}, 0)
        self.replay(rows, snapshots)

    def row(self, row: Row) -> None:
        """Log a row of the learning curve: `test_accuracy` as `test/accuracy`."""
        self._log({name.replace("_", "/"): value for name, value in row.items()}, int(row["iteration"]))

    def snapshot(self, snapshot: Snapshot) -> None:
        """Log the variance and the gradient of each layer or maxout piece."""
        values = {}
        for layer in snapshot.layers:
            values[f"variance/{layer.name}/{layer.piece}"] = layer.variance
            values[f"gradient_norm/{layer.name}/{layer.piece}"] = layer.gradient_norm
        self._log(values, snapshot.iteration)

    @errors_are_printed("logger")
    def finish(self, result: Result | None) -> None:
        """Write what is left, and close the files."""
        if self._logger is not None:
            self._logger.finalize("aborted" if result is None else "success" if result.final else "failed")

    @errors_are_printed("logger")
    def _log(self, values: Mapping[str, float | None], step: int) -> None:
        if self._logger is not None:
            self._logger.log_metrics({name: value for name, value in values.items() if value is not None}, step)
            self._logger.save()  # so that the files can be followed
