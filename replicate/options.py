"""Options: where and how a run is carried out. They change rounding at most, and are no part of a run's identity."""

import importlib.util
import netrc
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from replicate.errors import UsageError, unknown

# One operation after another; replays of a captured CUDA graph; the same of a net that torch.compile has fused. `auto`:
# on a GPU a graph where one can be had.
STEPS = ("auto", "eager", "graph", "compiled")
WANDB_MODES = ("off", "offline", "online")
SERVER = "https://api.wandb.ai"
# W&B's own words, of the environment variable WANDB_MODE
WANDB_WORDS = {"disabled": "off", "dryrun": "offline", "offline": "offline", "online": "online"}


@dataclass(frozen=True, slots=True)
class Options:
    """How to carry out a run.

    Args:
        out: the experiment's output folder; the run writes to `out/runs/<run_id>/`.
        data_dir: where data sets are found, and downloaded to.
        device: `cpu`, `cuda` or `mps`; which GPU that is, the launcher has settled in the process's environment.
        threads: CPU threads of each process of the run.
        devices_per_run: processes that train the run together, each on a GPU or CPU of its own.
        runs_per_device: runs at a time on the run's device when it started, this one included; a run's seconds and
            images per second depend on it.
        wandb: one of WANDB_MODES.
        experiment: name of the experiment, W&B's group.
        checkpoint_seconds: between two checkpoints of a run.
        step: one of STEPS: how an iteration reaches the device.
        deterministic: the same bits twice on a GPU as well, at some cost in speed; on the CPU it is so in any case.
        commit: of the code, and whether the code differs from it, as found when the matrix started; None: ask now.
        graph_failure: why an earlier attempt could not use a CUDA graph, so that `auto` is eager; None: there was none.
    """

    out: Path
    data_dir: Path = Path("data")
    device: str = "cpu"
    threads: int = 1
    devices_per_run: int = 1
    runs_per_device: int = 1
    wandb: str = "off"
    experiment: str = "local"
    checkpoint_seconds: float = 60.0
    step: str = "auto"
    deterministic: bool = False
    commit: tuple[str, bool | None] | None = None
    graph_failure: str | None = None

    @property
    def strict(self) -> bool:
        """Whether the same run gives the same bits: asked for, or implied by the CPU."""
        return self.deterministic or self.device == "cpu"

    def plain(self) -> dict[str, str | int | float]:
        """Plain data for a record: without folders, which are nobody else's business, and what has its own place."""
        without = ("out", "data_dir", "commit", "graph_failure")
        kept = {key: value for key, value in asdict(self).items() if key not in without}
        return kept | {"deterministic": self.strict}


def check_step(step: str, devices: Iterable[str], per_run: int) -> None:
    """See that iterations can be made as asked.

    Args:
        step: one of STEPS.
        devices: `cpu`, `cuda` or `mps`, all on which there will be runs.
        per_run: processes that train a run together.

    Raises:
        UsageError: it needs another device.
    """
    if step in ("graph", "compiled"):
        if set(devices) - {"cuda"}:
            raise UsageError(f"--step {step} needs an NVIDIA GPU; elsewhere choose from: auto, eager")
        if per_run > 1:
            raise UsageError(f"--step {step} is for one device; with --devices-per-run choose from: auto, eager")


def wandb_mode(asked: str | None) -> str:
    """Settle how runs are mirrored to Weights & Biases.

    Args:
        asked: one of WANDB_MODES; None: `off` where wandb is not installed, what WANDB_MODE says, else `offline`: a key
            that happens to be on the machine is never used unasked.

    Raises:
        UsageError: unknown mode.
    """
    if asked is not None:
        if asked not in WANDB_MODES:
            raise unknown("--wandb", asked, WANDB_MODES)
        return asked
    if importlib.util.find_spec("wandb") is None:
        return "off"
    return WANDB_WORDS.get(os.environ.get("WANDB_MODE", ""), "offline")


def wandb_key_known() -> bool:
    """Whether the environment or the user's netrc holds a key of W&B's server (WANDB_BASE_URL, if that is set)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return urlsplit(os.environ.get("WANDB_BASE_URL") or SERVER).hostname in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
