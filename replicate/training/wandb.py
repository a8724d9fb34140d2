"""Weights & Biases: a mirror of the run's files, for those who look at dashboards."""

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
from replicate.wandb_runs import PROJECT, discard, display_name, record_artifact, staged_in, wandb_id

FINISH_SECONDS = 300  # a network that is gone at the end holds a run up so long, not for ever
HISTOGRAMS = {key: f"layers/log10_{key}" for key in ("variance", "gradient_norm")}
LAYER_COLUMNS = ("iteration", "position", "layer", "piece", "variance", "gradient_norm", "largest", "smallest")


class Mirror:
    """The W&B run of a Run, or nothing where logging is off.

    The files are the truth: whatever goes wrong here is printed, and the training goes on without its mirror. The W&B
    run has the id of `wandb_id` (in a sweep, the sweep's); it is grouped by experiment and tagged with its init and
    activation.

    A run that is taken up again goes on online, under its id. An offline one cannot: its earlier folder is removed, and
    what it held is logged again, see `begin`.

    Args:
        run: becomes W&B's config.
        options: `wandb` and `experiment` are used.
        fingerprint: of the data.
        folder: the run's, under which W&B keeps its files.
    """

    def __init__(self, run: Run, options: Options, fingerprint: str, folder: Path) -> None:
        self._run: Any = None
        self._of, self._fingerprint, self._folder = run, fingerprint, folder
        self._layers: list[list[object]] = []
        if options.wandb == "off":
            return
        with self._tolerant():
            import wandb  # here, because it takes a second to import and most commands need none of it

            identity = wandb_id(run, fingerprint)
            discard(folder, identity)  # online as well, or a later upload would bring back what it held
            self._run = wandb.init(
                project=PROJECT,
                group=options.experiment,
                job_type="train",
                name=display_name(run),
                id=identity,
                tags=[run.init, run.activation],
                config=asdict(run),
                dir=folder,
                mode=options.wandb,  # type: ignore[arg-type]  # one of WANDB_MODES
                resume="allow" if options.wandb == "online" else None,
                settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
            )
            for axis in ("iteration", "epoch"):
                self._run.define_metric(axis)
            for metric in ("train/*", "test/*", "lr", *HISTOGRAMS.values()):
                self._run.define_metric(metric, step_metric="iteration")

    def begin(self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]) -> None:
        """Log the initialisation's report as a table, and of a run that was taken up again what it has so far.

        Args:
            init: the rows of the report.
            rows: of the learning curve so far.
            snapshots: measured so far.
        """
        if self._run is None:
            return
        with self._tolerant():
            import wandb

            columns: list[str | int] = [*init[0]] if init else []
            table = wandb.Table(columns=columns, data=[[*row.values()] for row in init])
            self._log({"init/report": table}, 0)
        waiting = list(rows)
        for snapshot in snapshots:  # each is logged before the row of its iteration
            while waiting and waiting[0]["iteration"] < snapshot.iteration:
                self.log(waiting.pop(0))
            self.snapshot(snapshot)
        for row in waiting:
            self.log(row)

    def log(self, row: Mapping[str, float]) -> None:
        """Log a row of the learning curve: `test_accuracy` as `test/accuracy`, against the iteration."""
        if self._run is not None:
            with self._tolerant():
                self._log({name.replace("_", "/"): value for name, value in row.items()}, int(row["iteration"]))

    def snapshot(self, snapshot: Snapshot) -> None:
        """Log a snapshot of the layers: histograms over the layers, and a table of all snapshots so far.

        Variances and gradient norms differ by orders of magnitude between layers, so the histograms are of their
        decimal logarithms; what is 0 or not finite is left out of them.
        """
        if self._run is None:
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

    def finish(self, summary: Mapping[str, object]) -> None:
        """Close the W&B run. One left open would be shared silently by the next run in this process.

        Args:
            summary: final numbers and `status`. Where that is a result, the run's files are logged as an artifact.
        """
        if self._run is not None:
            with self._tolerant():
                self._run.summary.update(dict(summary))
                if summary["status"] not in ("error", "stopped"):
                    self._run.log_artifact(record_artifact(self._of, self._fingerprint, self._folder))
            with self._tolerant():
                self._run.finish(exit_code=int(summary["status"] == "error"))
            self._run = None

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step >= self._run.starting_step:  # the server of a run that goes on has what is before
            with staged_in(self._folder):
                self._run.log(values, step=step)

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a network, a server, a full disk: of nothing that the training needs
            print(f"W&B: {error!r}; the run goes on without it")
