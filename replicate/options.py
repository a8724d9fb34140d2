"""Options: which runs, and where and how they are carried out.

The fields of `Selection` and `Resources` are the options of the command line, and their descriptions are its help.
"""

import math
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from replicate.errors import UsageError
from replicate.logging_options import Logging
from replicate.plugins import Plugin

OUT = Path("results/local")
DATA_DIR = Path("data")
Step = Literal["auto", "eager", "graph", "compiled"]
MAX_WORKERS = 1000  # SLURM's default limit of a job array (MaxArraySize)
Whole = Annotated[int, Parameter(converter=lambda _, tokens: int(tokens[0].value))]  # Cyclopts would round 1.9
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which runs of an experiment file, and where their records and data are.

    Args:
        out: Output folder (default: results/local/ followed by the experiment's name).
        data_dir: Folder where data sets are found, and downloaded to (default: data).
        only: Keep only the runs with these values, such as init=lsuv,xavier.
        set: Replace settings, such as lr=0.02. A list replaces an axis, such as seed=0,1.
        plugin: Python file with initialisations of your own (replicate/init/README.md). Give it once per file.
    """

    out: Path | None = None
    data_dir: Path = DATA_DIR
    only: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    plugin: Annotated[tuple[Path, ...], Parameter(consume_multiple=False)] = ()

    @property
    def words(self) -> list[str]:
        """The words that select the same on a command line."""
        words = ["--data-dir", str(self.data_dir)] if self.data_dir != DATA_DIR else []
        words += ["--out", str(self.out)] if self.out else []
        words += [word for path in self.plugin for word in ("--plugin", str(path))]
        words += ["--only", *self.only] if self.only else []
        return words + (["--set", *self.set] if self.set else [])


def command_line(command: str, file: Path, selection: Selection) -> str:
    """A command that can be pasted, for the same runs: this program, as it was called, with other words."""
    console_script = Path(sys.argv[0]).name == "replicate"
    program, *module = [sys.argv[0]] if console_script else [sys.executable, "-m", "replicate"]
    if shutil.which(Path(program).name) == program:
        program = Path(program).name
    elif Path(program).is_relative_to(Path.cwd()):
        program = str(Path(program).relative_to(Path.cwd()))
    return shlex.join([program, *module, command, str(file), *selection.words])


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Where and how runs are carried out.

    Args:
        devices: auto (every GPU, else the CPU), cpu, or GPU numbers such as 0,1 (default: auto).
        per_device: Runs at a time on each device (default: 1; on this machine's CPU, one per --threads-per-run cores).
        threads_per_run: CPU threads of each process of a run (default: 1).
        devices_per_run: GPUs (or CPU processes) that share the batches of each run (default: 1). Remaining GPUs stay
            idle.
        launcher: What starts the runs: this machine, or workers on a cluster (default: local).
        workers: Workers at a time on a cluster (default: one per unfinished run). Each carries out runs until none is
            left.
        slurm: SLURM's options, with --launcher slurm: --slurm.partition NAME, --slurm.gres gpu:1, and so on.
        ray: Ray's options, with --launcher ray: --ray.address HOST:PORT, and so on.
        retries: Retries of a run after a transient failure (killed, out of memory, CUDA error, full disk), and of a
            lost worker (default: 1).
        time_limit: Stop after this long (90s, 10m, 2h, 1d), checkpoints first. The exit code is 3 if runs remain.
        checkpoint_seconds: Seconds between two checkpoints of a run (default: 60).
        step: Training-step backend; auto is a CUDA graph on a GPU and eager elsewhere (default: auto).
        deterministic: Use deterministic GPU kernels, which are slower. Runs on a CPU are always deterministic.
        save_probabilities: Store the class probabilities of the test images, for `replicate ensemble`. Runs that have
            finished are not repeated for it.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """

    devices: str = "auto"
    per_device: Whole | None = None
    threads_per_run: Whole = 1
    devices_per_run: Whole = 1
    launcher: Literal["local", "slurm", "ray"] = "local"
    workers: Whole | None = None
    slurm: dict[str, str] = field(default_factory=dict)
    ray: dict[str, str] = field(default_factory=dict)
    retries: Whole = 1
    time_limit: str | None = None
    checkpoint_seconds: float = 60.0
    step: Step = "auto"
    deterministic: bool = False
    save_probabilities: bool = False

    def __post_init__(self) -> None:
        for name in ("per_device", "threads_per_run", "devices_per_run", "workers", "retries"):
            value, least = getattr(self, name), 0 if name == "retries" else 1
            most = MAX_WORKERS if name == "workers" else None
            if value is not None and (value < least or (most and value > most)):
                choices = f"{least} to {most}" if most else f"{least} or more"
                raise UsageError(f"--{name.replace('_', '-')} {value} is out of range; give {choices}")
        if not self.checkpoint_seconds >= 0:
            raise UsageError(f"--checkpoint-seconds {self.checkpoint_seconds:g} is out of range; give 0 or more")
        if not re.fullmatch(r"auto|cpu|\d+(,\d+)*", self.devices):
            raise UsageError(f"unknown device {self.devices!r}; choose from: auto, cpu, or GPU numbers such as 0,1")
        numbers = [int(number) for number in re.findall(r"\d+", self.devices)]
        if len(set(numbers)) < len(numbers):
            twice = f"--devices {self.devices} names a GPU twice"
            raise UsageError(f"{twice}; for several runs on one GPU use --per-device")
        for name in ("slurm", "ray"):
            if getattr(self, name) and self.launcher != name:
                raise UsageError(f"--{name}.{next(iter(getattr(self, name)))} needs --launcher {name}")
        if self.workers is not None and self.launcher == "local":
            raise UsageError("--workers is for clusters; on this machine, use --per-device to set the runs at a time")
        _ = self.seconds

    @property
    def seconds(self) -> float:
        """The time limit in seconds; infinity if there is none."""
        if self.time_limit is None:
            return math.inf
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", self.time_limit.strip(), flags=re.ASCII)
        if match is None or not float(match[1]):
            problem = f"--time-limit {self.time_limit!r} is not a length of time"
            raise UsageError(f"{problem}; give seconds, or 90s, 10m, 2h, 1d")
        return float(match[1]) * _SECONDS[match[2]]

    def check_step(self, devices: Iterable[str]) -> None:
        """Check that the training-step backend works on the devices of the runs, `cpu` or `cuda`.

        Raises:
            UsageError: it needs another device.
        """
        if self.step in ("auto", "eager"):
            return
        if set(devices) - {"cuda"}:
            raise UsageError(f"--step {self.step} needs an NVIDIA GPU; elsewhere choose from: auto, eager")
        if self.devices_per_run > 1:
            raise UsageError(f"--step {self.step} is for one device; with --devices-per-run choose from: auto, eager")


@dataclass(frozen=True, slots=True)
class Options:
    """How one run is carried out. Options change rounding at most, and are not part of a run's identity.

    Args:
        out: the experiment's output folder; the run writes to `out/runs/<run_id>/`.
        data_dir: folder where data sets are found, and downloaded to.
        device: `cpu` or `cuda`. The launcher sets in the process's environment which GPUs it sees.
        threads: CPU threads of each process of the run.
        devices_per_run: processes that train the run together, each on its own GPU or on the CPU.
        runs_per_device: runs on the run's device when it started, itself included: its speed depends on them.
        logging: where the run is logged.
        experiment: name of the experiment, which is W&B's group.
        checkpoint_seconds: seconds between two checkpoints.
        step: training-step backend.
        deterministic: whether to use deterministic GPU kernels. Runs on a CPU are always deterministic.
        save_probabilities: whether to store the class probabilities of the test images.
        plugins: the user's own initialisations.
        graph_failure: why an earlier attempt could not use a CUDA graph, so that `auto` means eager; None: there was no
            failure.
    """

    out: Path
    data_dir: Path = DATA_DIR
    device: str = "cpu"
    threads: int = 1
    devices_per_run: int = 1
    runs_per_device: int = 1
    logging: Logging = Logging(wandb="off")
    experiment: str = "local"
    checkpoint_seconds: float = 60.0
    step: Step = "auto"
    deterministic: bool = False
    save_probabilities: bool = False
    plugins: tuple[Plugin, ...] = ()
    graph_failure: str | None = None

    @property
    def strict(self) -> bool:
        """Whether the same run gives the same bits, because it was asked for or runs on a CPU."""
        return self.deterministic or self.device == "cpu"

    def plain(self) -> dict[str, str | int | float]:
        """Return the options as plain data for a record, without folders and without what the record has elsewhere."""
        without = ("out", "data_dir", "logging", "save_probabilities", "plugins", "graph_failure")
        kept = {key: value for key, value in asdict(self).items() if key not in without}
        return kept | {"logger": self.logging.logger, "wandb": self.logging.mode, "deterministic": self.strict}
