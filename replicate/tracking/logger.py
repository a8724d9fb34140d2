"""Mirrors a training to Weights & Biases, for those who look at dashboards."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicate.options import Options
from replicate.run import Run
from replicate.store.curve import Row
from replicate.store.layers import Snapshot
from replicate.store.result import Result
from replicate.tracking.runs import PROJECT, discard, display_name, record_artifact, staged_in, wandb_id
from replicate.training.logger import Logger

FINISH_SECONDS = 300  # a network that is gone at the end holds a run up so long, not for ever
HISTOGRAMS = {key: f"layers/log10_{key}" for key in ("variance", "gradient_norm")}
SUMMARY = ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second")
LAYER_COLUMNS = ("iteration", "position", "layer", "piece", "variance", "gradient_norm", "largest", "smallest")


class WandbLogger(Logger):
    """Mirrors a run to Weights & Biases.

    The files are the truth: whatever goes wrong here is printed, and the training continues without its mirror. The W&B
    run has the id of `wandb_id` (in a sweep, the sweep's); it is grouped by experiment and tagged with its init and
    activation.

    A resumed run continues online, under its id. W&B cannot resume an offline run: its earlier folder is removed, and
    what it held is logged again, see `initialized`.

    Args:
        run: becomes W&B's config.
        options: `wandb` and `experiment` are used.
        folder: the run's, under which W&B keeps its files.
    """

    def __init__(self, run: Run, options: Options, folder: Path) -> None:
        self._wandb_run: Any = None
        self._run, self._options, self._folder = run, options, folder
        self._fingerprint = ""
        self._layers: list[list[object]] = []

    def start(self, fingerprint: str) -> None:
        """Start the W&B run, whose id names the data too."""
        self._fingerprint = fingerprint
        with self._tolerant():
            import wandb  # here, because it takes a second to import and most commands need none of it

            identity = wandb_id(self._run, fingerprint)
            discard(self._folder, identity)  # online as well, or a later upload would bring back what it held
            self._wandb_run = wandb.init(
                project=PROJECT,
                group=self._options.experiment,
                job_type="train",
                name=display_name(self._run),
                id=identity,
                tags=[self._run.init, self._run.activation],
                config=asdict(self._run),
                dir=self._folder,
                mode=self._options.wandb,  # type: ignore[arg-type]  # one of WANDB_MODES
                resume="allow" if self._options.wandb == "online" else None,
                settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
            )
            for axis in ("iteration", "epoch"):
                self._wandb_run.define_metric(axis)
            for metric in ("train/*", "test/*", "lr", *HISTOGRAMS.values()):
                self._wandb_run.define_metric(metric, step_metric="iteration")

    def initialized(
        self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]
    ) -> None:
        """Log the initialisation's report as a table, and what a resumed run has so far."""
        if self._wandb_run is None:
            return
        with self._tolerant():
            import wandb

            columns: list[str | int] = [*init[0]] if init else []
            table = wandb.Table(columns=columns, data=[[*row.values()] for row in init])
            self._log({"init/report": table}, 0)
        waiting = list(rows)
        for snapshot in snapshots:  # each is logged before the row of its iteration
            while waiting and waiting[0]["iteration"] < snapshot.iteration:
                self.row(waiting.pop(0))
            self.snapshot(snapshot)
        for row in waiting:
            self.row(row)

    def row(self, row: Row) -> None:
        """Log a row of the learning curve: `test_accuracy` as `test/accuracy`, against the iteration."""
        if self._wandb_run is not None:
            with self._tolerant():
                self._log({name.replace("_", "/"): value for name, value in row.items()}, int(row["iteration"]))

    def snapshot(self, snapshot: Snapshot) -> None:
        """Log a snapshot of the layers: histograms over the layers, and a table of all snapshots so far.

        Variances and gradient norms differ by orders of magnitude between layers, so the histograms are of their
        decimal logarithms; what is 0 or not finite is left out of them.
        """
        if self._wandb_run is None:
            return
        iteration, layers = snapshot.iteration, snapshot.layers
        for position, layer in enumerate(layers):
            values = layer.singular_values
            numbers = (layer.variance, layer.gradient_norm, values[0], values[-1])
            self._layers.append([iteration, position, layer.name, layer.piece, *numbers])
        with self._tolerant():
            import wandb

            logged: dict[str, Any] = {"iteration": iteration}
            for key, histogram in HISTOGRAMS.items():
                if logs := [math.log10(value) for layer in layers if (value := getattr(layer, key))]:
                    logged[histogram] = wandb.Histogram(logs)
            logged["layers/table"] = wandb.Table(columns=list(LAYER_COLUMNS), data=list(self._layers))
            self._log(logged, iteration)

    def finish(self, result: Result | None) -> None:
        """Close the W&B run. One left open would be shared silently by the next run in this process.

        The summary holds the final numbers and the status; the files of a run with a result are logged as an artifact.
        """
        if self._wandb_run is None:
            return
        with self._tolerant():
            summary = {"status": "stopped"} if result is None else {key: getattr(result, key) for key in SUMMARY}
            self._wandb_run.summary.update(summary)
            if result is not None and result.final:
                self._wandb_run.log_artifact(record_artifact(self._run, self._fingerprint, self._folder))
        with self._tolerant():
            self._wandb_run.finish(exit_code=int(result is not None and not result.final))
        self._wandb_run = None

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step >= self._wandb_run.starting_step:  # the server of a run that goes on has what is before
            with staged_in(self._folder):
                self._wandb_run.log(values, step=step)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a network, a server, a full disk: of nothing that the training needs
            print(f"W&B: {error!r}; the run goes on without it")
