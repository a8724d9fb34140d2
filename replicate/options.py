"""Options: where and how a run is carried out. They change rounding at most, and are no part of a run's identity."""

from dataclasses import dataclass
from pathlib import Path

WANDB_MODES = ("off", "offline", "online")


@dataclass(frozen=True, slots=True)
class Options:
    """How to carry out a run.

    Args:
        out: the experiment's output folder; the run writes to `out/runs/<run_id>/`.
        data_dir: where data sets are found, and downloaded to.
        device: `cpu` or `cuda`; which GPU that is, the launcher has settled in the process's environment.
        threads: CPU threads of the run.
        wandb: one of WANDB_MODES.
        experiment: name of the experiment, W&B's group.
    """

    out: Path
    data_dir: Path = Path("data")
    device: str = "cpu"
    threads: int = 1
    wandb: str = "off"
    experiment: str = "local"
