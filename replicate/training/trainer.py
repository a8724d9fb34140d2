"""Lightning's Trainer as every run has it."""

import pytorch_lightning as pl

from replicate.data.datamodule import DeviceData
from replicate.options import Options
from replicate.run import Run
from replicate.training.team import Alone


def make_trainer(
    run: Run, options: Options, data: DeviceData, callbacks: list[pl.Callback], team: Alone | None = None
) -> pl.Trainer:
    """Make a Trainer for a prepared run: one device a process, and nothing that costs time at every iteration."""
    return pl.Trainer(
        accelerator=options.device,
        max_epochs=sum(end > data.stream.taken for end in data.epoch_ends),
        reload_dataloaders_every_n_epochs=1,
        precision=run.precision,  # type: ignore[arg-type]  # one of PRECISIONS, all of which are Lightning's
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(team or Alone()).trainer_settings(),
    )
