"""Weights & Biases: a mirror of the run's files, for those who look at dashboards."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from replicate.options import Options
from replicate.run import Run

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

PROJECT = "lsuv-replication"


def wandb_logger(run: Run, options: Options, fingerprint: str, folder: Path) -> "WandbLogger | None":
    """Open the W&B run of a Run, or nothing where logging is off.

    The W&B run's id is the run_id and the first 6 digits of the data's fingerprint: the same settings on other data are
    another run. It is grouped by experiment and tagged with its init and activation.

    Args:
        run: becomes W&B's config.
        options: `wandb` and `experiment` are used.
        fingerprint: of the data.
        folder: the run's, under which W&B keeps its files.
    """
    if options.wandb == "off":
        return None
    import wandb  # here, because it takes a second to import and most commands need none of it
    from pytorch_lightning.loggers import WandbLogger

    return WandbLogger(
        project=PROJECT,
        group=options.experiment,
        job_type="train",
        name=run.run_id,
        id=f"{run.run_id}-{fingerprint[:6]}",
        tags=[run.init, run.activation],
        config=asdict(run),
        save_dir=folder,
        mode=options.wandb,
        offline=options.wandb == "offline",
        settings=wandb.Settings(console="off", silent=True),
    )


def finish(logger: "WandbLogger | None", summary: dict[str, object]) -> None:
    """Close the W&B run. One left open would be shared silently by the next run in this process."""
    if logger is None:
        return
    logger.experiment.summary.update(summary)
    logger.experiment.finish(exit_code=int(summary["status"] == "error"))
