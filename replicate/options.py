"""Options: which runs, and where and how they are carried out.

The fields of `Selection` and `Resources` are the options of the command line, and their docstrings are its help.
"""

import importlib.util
import math
import netrc
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from replicate.errors import UsageError

OUT = Path("results/local")
DATA_DIR = Path("data")
Launcher = Literal["local", "slurm", "ray"]
Step = Literal["auto", "eager", "graph", "compiled"]
WandbMode = Literal["off", "offline", "online"]
MAX_WORKERS = 1000  # SLURM's default limit of a job array (MaxArraySize)
SERVER = "https://api.wandb.ai"
# W&B's own words, in the environment variable WANDB_MODE
WANDB_WORDS: Mapping[str, WandbMode] = {"disabled": "off", "dryrun": "offline", "online": "online"}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which runs of an experiment file, and where their records and data are."""

    out: Path | None = None
    """Output folder (default: results/local/ followed by the experiment's name)."""
    data_dir: Path = DATA_DIR
    """Folder where data sets are found, and downloaded to (default: data)."""
    only: tuple[str, ...] = ()
    """Keep only the runs with these values, such as init=lsuv,xavier."""
    set: tuple[str, ...] = ()
    """Replace settings, such as lr=0.02. A list replaces an axis, such as seed=0,1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Where and how runs are carried out.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    devices: str = "auto"
    """auto (every GPU, else the CPU), cpu, or GPU numbers such as 0,1 (default: auto)."""
    per_device: int | None = None
    """Runs at a time on each device (default: 1; on this machine's CPU, one per --threads-per-run cores)."""
    threads_per_run: int = 1
    """CPU threads of each process of a run (default: 1)."""
    devices_per_run: int = 1
    """GPUs (or CPU processes) that share the batches of each run (default: 1). Remaining GPUs stay idle."""
    launcher: Launcher = "local"
    """What starts the runs: this machine, or workers on a cluster (default: local)."""
    workers: int | None = None
    """Workers at a time on a cluster (default: one per unfinished run). Each carries out runs until none is left."""
    slurm: dict[str, str] = field(default_factory=dict)
    """SLURM's options, with --launcher slurm: --slurm.partition NAME, --slurm.gres gpu:1, and so on."""
    ray: dict[str, str] = field(default_factory=dict)
    """Ray's options, with --launcher ray: --ray.address HOST:PORT, and so on."""
    retries: int = 1
    """Retries of a run after a transient failure (killed, out of memory, CUDA error, full disk), and of a lost worker
    (default: 1)."""
    time_limit: str | None = None
    """Stop after this long (90s, 10m, 2h, 1d), checkpoints first. The exit code is 3 if runs remain."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints of a run (default: 60)."""
    step: Step = "auto"
    """Training-step backend; auto is a CUDA graph on a GPU and eager elsewhere (default: auto)."""
    deterministic: bool = False
    """Use deterministic GPU kernels, which are slower. Runs on a CPU are always deterministic."""

    def __post_init__(self) -> None:
        for name in ("per_device", "threads_per_run", "devices_per_run", "workers", "retries"):
            value, least = getattr(self, name), 0 if name == "retries" else 1
            most = MAX_WORKERS if name == "workers" else None
            if value is not None and (value < least or (most and value > most)):
                choices = f"{least} to {most}" if most else f"{least} or more"
                raise UsageError(f"--{name.replace('_', '-')} {value} is out of range; give {choices}")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"--checkpoint-seconds {self.checkpoint_seconds:g} is out of range; give 0 or more")
        if self.devices not in ("auto", "cpu"):
            self._check_gpu_numbers()
        for name in ("slurm", "ray"):
            if getattr(self, name) and self.launcher != name:
                raise UsageError(f"--{name}.{next(iter(getattr(self, name)))} needs --launcher {name}")
        if self.workers is not None and self.launcher == "local":
            raise UsageError("--workers is for clusters; on this machine, use --per-device to set the runs at a time")
        _ = self.seconds

    def _check_gpu_numbers(self) -> None:
        if not re.fullmatch(r"\d+(,\d+)*", self.devices):
            raise UsageError(f"unknown device {self.devices!r}; choose from: auto, cpu, or GPU numbers such as 0,1")
        numbers = [int(number) for number in self.devices.split(",")]
        if len(set(numbers)) < len(numbers):
            twice = f"--devices {self.devices} names a GPU twice"
            raise UsageError(f"{twice}; for several runs on one GPU use --per-device")

    @property
    def seconds(self) -> float:
        """The time limit in seconds; infinity if there is none."""
        if self.time_limit is None:
            return math.inf
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", self.time_limit.strip(), flags=re.ASCII)
        if match is None or not float(match[1]):
            raise UsageError(
                f"--time-limit {self.time_limit!r} is not a length of time; give seconds, or 90s, 10m, 2h, 1d"
            )
        return float(match[1]) * _SECONDS[match[2]]

    def check_step(self, devices: Iterable[str]) -> None:
        """Check that the training-step backend works on the devices of the runs, `cpu` or `cuda`.

        Raises:
            UsageError: it needs another device.
        """
        if self.step in ("graph", "compiled"):
            if set(devices) - {"cuda"}:
                raise UsageError(f"--step {self.step} needs an NVIDIA GPU; elsewhere choose from: auto, eager")
            if self.devices_per_run > 1:
                one = f"--step {self.step} is for one device"
                raise UsageError(f"{one}; with --devices-per-run choose from: auto, eager")


@dataclass(frozen=True, slots=True)
class Options:
    """How one run is carried out. Options change rounding at most, and are not part of a run's identity."""

    out: Path
    """The experiment's output folder; the run writes to `out/runs/<run_id>/`."""
    data_dir: Path = DATA_DIR
    """Folder where data sets are found, and downloaded to."""
    device: str = "cpu"
    """`cpu` or `cuda`. The launcher sets in the process's environment which GPUs it sees."""
    threads: int = 1
    """CPU threads of each process of the run."""
    devices_per_run: int = 1
    """Processes that train the run together, each on its own GPU or on the CPU."""
    runs_per_device: int = 1
    """Runs on the run's device when it started, itself included: its speed depends on them."""
    wandb: WandbMode = "off"
    """Whether the run is mirrored to Weights & Biases."""
    experiment: str = "local"
    """Name of the experiment, which is W&B's group."""
    checkpoint_seconds: float = 60.0
    """Seconds between two checkpoints."""
    step: Step = "auto"
    """Training-step backend."""
    deterministic: bool = False
    """Whether to use deterministic GPU kernels. Runs on a CPU are always deterministic."""
    commit: tuple[str, bool | None] | None = None
    """Commit of the code and whether the code differs from it, as found when the matrix started; None: ask git now."""
    graph_failure: str | None = None
    """Why an earlier attempt could not use a CUDA graph, so that `auto` means eager; None: there was no failure."""

    @property
    def strict(self) -> bool:
        """Whether the same run gives the same bits, because it was asked for or runs on a CPU."""
        return self.deterministic or self.device == "cpu"

    def plain(self) -> dict[str, str | int | float]:
        """Return the options as plain data for a record, without folders and without what the record has elsewhere."""
        without = ("out", "data_dir", "commit", "graph_failure")
        kept = {key: value for key, value in asdict(self).items() if key not in without}
        return kept | {"deterministic": self.strict}


def default_wandb_mode() -> WandbMode:
    """How runs are mirrored to Weights & Biases if nobody says: as WANDB_MODE says, else offline.

    A key that happens to be on the machine is not used unasked. Without the package wandb, the mode is off.
    """
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
