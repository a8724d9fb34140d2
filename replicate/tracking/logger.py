"""Mirrors a training to Weights & Biases; and starts W&B runs, and finds and removes offline ones."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import wandb

from replicate.logging_options import WandbProject
from replicate.options import Options
from replicate.run import Run
from replicate.store.measurements import Row, Snapshot
from replicate.store.result import Result
from replicate.store.run_folder import CURVE, LAYERS, PREDICTIONS, RESULT
from replicate.training.logger import Logger, errors_are_printed

FINISH_SECONDS = 300  # if the network is gone at the end, a run waits this long for it, not forever
HISTOGRAMS = {key: f"layers/log10_{key}" for key in ("variance", "gradient_norm")}
SUMMARY = ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second")
LAYER_COLUMNS = (
    *("iteration", "position", "layer", "piece", "variance", "gradient_norm"),
    *("saturated", "dead", "largest", "smallest"),
)


def offline_runs(folder: Path) -> list[Path]:
    """The offline W&B runs in `folder/wandb/`, oldest first."""
    return sorted(path for path in folder.glob("wandb/offline-run-*") if list(path.glob("run-*.wandb")))


def discard(folder: Path, identity: str) -> None:
    """Remove the offline runs of an id, because a new one replaces them: W&B cannot resume an offline run.

    Args:
        folder: the folder that holds `wandb/`.
        identity: the id; `?` matches any character.
    """
    for path in folder.glob(f"wandb/offline-run-*-{identity}"):
        shutil.rmtree(path)
    if not offline_runs(folder):
        shutil.rmtree(folder / "wandb" / "artifacts", ignore_errors=True)  # the copies that they would have uploaded


def init_wandb_run(folder: Path, where: WandbProject, mode: str, **settings: Any) -> Any:
    """Start a W&B run.

    Args:
        folder: W&B keeps its files in `folder/wandb/`.
        where: the project and the entity.
        mode: `offline` or `online`.
        settings: of `wandb.init`, in addition.
    """
    # W&B's default for the copies that it uploads later is the home folder, where nobody would remove them.
    os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))
    return wandb.init(
        project=where.project,
        entity=where.entity,
        dir=folder,
        mode=mode,  # type: ignore[arg-type]  # checked by `wandb_mode`
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(console="off", silent=True, finish_timeout=FINISH_SECONDS),
        **settings,
    )


class WandbLogger(Logger):
    """Mirrors a run to Weights & Biases.

    The files are the truth: whatever goes wrong here is printed, and the training continues without its mirror. The W&B
    run is grouped by experiment and tagged with its init and activation. Its id (in a sweep, the sweep's) is the run_id
    and 6 digits of the data's fingerprint, because on other data it is another run.

    A resumed run continues online, under its id. W&B cannot resume an offline run: its earlier folder is removed, and
    what it held is logged again, see `initialized`.

    Args:
        run: becomes W&B's config.
        options: `logging` and `experiment` are used.
        folder: the run's, under which W&B keeps its files.
    """

    def __init__(self, run: Run, options: Options, folder: Path) -> None:
        self._wandb_run: Any = None  # until it has started; without it nothing is logged
        self._run, self._options, self._folder = run, options, folder
        self._layers: list[list[object]] = []

    @errors_are_printed("W&B")
    def start(self, fingerprint: str) -> str | None:
        """Start the W&B run, and return its URL if it is online."""
        run, logging = self._run, self._options.logging
        self._identity = f"{run.run_id}-{fingerprint[:6]}"
        discard(self._folder, self._identity)  # online as well, or a later upload would bring back what it held
        self._wandb_run = init_wandb_run(
            self._folder,
            logging,
            logging.mode,
            id=self._identity,
            group=self._options.experiment,
            job_type="train",
            # With two digits of the seed, names sort by initialisation, activation and seed.
            name=f"{run.init}-{run.activation}-s{run.seed:02d}-{run.run_id.rpartition('-')[2]}",
            tags=[run.init, run.activation, *logging.tags],
            config=asdict(run),
        )
        for axis in ("iteration", "epoch"):
            self._wandb_run.define_metric(axis)
        for metric in ("train/*", "test/*", "lr", *HISTOGRAMS.values()):
            self._wandb_run.define_metric(metric, step_metric="iteration")
        url: str | None = self._wandb_run.url if logging.mode == "online" else None
        return url

    def initialized(
        self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]
    ) -> None:
        """Log the initialisation's report as a table, and what a resumed run has so far."""
        with errors_are_printed("W&B"):  # so that a resumed run is logged all the same
            self._log({"init/report": wandb.Table(columns=[*init[0]], data=[[*entry.values()] for entry in init])}, 0)
        self.replay(rows, snapshots)

    @errors_are_printed("W&B")
    def row(self, row: Row) -> None:
        """Log a row of the learning curve: `test_accuracy` as `test/accuracy`, against the iteration."""
        self._log({name.replace("_", "/"): value for name, value in row.items()}, int(row["iteration"]))

    @errors_are_printed("W&B")
    def snapshot(self, snapshot: Snapshot) -> None:
        """Log a snapshot of the layers: histograms over the layers, and a table of all snapshots so far.

        Variances and gradient norms differ by orders of magnitude between layers, so the histograms are of their
        decimal logarithms; what is 0 or not finite is left out of them.
        """
        for position, layer in enumerate(snapshot.layers):
            numbers = (layer.variance, layer.gradient_norm, layer.saturated, layer.dead)
            ends = (layer.singular_values[0], layer.singular_values[-1])
            self._layers.append([snapshot.iteration, position, layer.name, layer.piece, *numbers, *ends])
        logged: dict[str, Any] = {"iteration": snapshot.iteration}
        for key, histogram in HISTOGRAMS.items():
            if logs := [math.log10(value) for layer in snapshot.layers if (value := getattr(layer, key))]:
                logged[histogram] = wandb.Histogram(logs)
        logged["layers/table"] = wandb.Table(columns=list(LAYER_COLUMNS), data=list(self._layers))
        self._log(logged, snapshot.iteration)

    def finish(self, result: Result | None) -> None:
        """Close the W&B run. If it stayed open, the next run in this process would write into it.

        The summary holds the final numbers and the status; the files of a run with a result are logged as an artifact.
        """
        if self._wandb_run is None:
            return
        with errors_are_printed("W&B"):
            summary = {"status": "stopped"} if result is None else {key: getattr(result, key) for key in SUMMARY}
            self._wandb_run.summary.update(summary)
            if result is not None and result.final:
                self._log_files()
        with errors_are_printed("W&B"):
            self._wandb_run.finish(exit_code=int(result is not None and not result.final))

    def _log_files(self) -> None:
        artifact = wandb.Artifact(f"record-{self._identity}", type="record")
        for name in (RESULT, CURVE, LAYERS, PREDICTIONS):
            if (path := self._folder / name).is_file():
                # It is uploaded from where it is; nothing is copied.
                artifact.add_file(str(path.resolve()), name=name, policy="immutable", skip_cache=True)
        self._wandb_run.log_artifact(artifact)

    def _log(self, values: dict[str, Any], step: int) -> None:
        # The server of a resumed run has what is before its starting step.
        if self._wandb_run is not None and step >= self._wandb_run.starting_step:
            self._wandb_run.log(values, step=step)
