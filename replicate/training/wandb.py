"""Weights & Biases: a mirror of the run's files, for those who look at dashboards."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicate.options import Options
from replicate.run import Run

PROJECT = "lsuv-replication"


class Mirror:
    """The W&B run of a Run, or nothing where logging is off.

    The files are the truth: whatever goes wrong here is printed, and the training goes on without its mirror. The W&B
    run's id is the run_id and the first 6 digits of the data's fingerprint, as the same settings on other data are
    another run. It is grouped by experiment and tagged with its init and activation.

    Args:
        run: becomes W&B's config.
        options: `wandb` and `experiment` are used.
        fingerprint: of the data.
        folder: the run's, under which W&B keeps its files.
    """

    def __init__(self, run: Run, options: Options, fingerprint: str, folder: Path) -> None:
        self._run: Any = None
        if options.wandb == "off":
            return
        with self._tolerant():
            import wandb  # here, because it takes a second to import and most commands need none of it

            self._run = wandb.init(
                project=PROJECT,
                group=options.experiment,
                job_type="train",
                name=run.run_id,
                id=f"{run.run_id}-{fingerprint[:6]}",
                tags=[run.init, run.activation],
                config=asdict(run),
                dir=folder,
                mode=options.wandb,  # type: ignore[arg-type]  # one of WANDB_MODES
                resume="allow" if options.wandb == "online" else None,
                settings=wandb.Settings(console="off", silent=True),
            )

    def log(self, row: Mapping[str, float]) -> None:
        """Log a row of the learning curve: `test_accuracy` as `test/accuracy`, against the iteration."""
        if self._run is not None:
            with self._tolerant():
                named = {name.replace("_", "/"): value for name, value in row.items()}
                self._run.log(named, step=int(row["iteration"]))

    def finish(self, summary: Mapping[str, object]) -> None:
        """Close the W&B run. One left open would be shared silently by the next run in this process."""
        if self._run is not None:
            with self._tolerant():
                self._run.summary.update(dict(summary))
                self._run.finish(exit_code=int(summary["status"] == "error"))
            self._run = None

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a network, a server, a full disk: of nothing that the training needs
            print(f"W&B: {error!r}; the run goes on without it")
