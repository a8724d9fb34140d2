"""`replicate doctor`: checks devices, disk, data and W&B, and suggests fixes."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from replicate import nvidia_mps, provenance
from replicate.data import available, official_files
from replicate.errors import CUDA, MEMORY, UsageError
from replicate.logging_options import default_wandb_mode, wandb_key_known
from replicate.matrix.limits import RUN_MEMORY, cores, free_memory
from replicate.matrix.local import Ended, LocalLauncher
from replicate.matrix.resources import make_slots
from replicate.matrix.scheduler import WORKER
from replicate.matrix.task import PRELOAD, TRAIN, Failed, GraphFailed, Task, outcome_of
from replicate.options import Options
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.lease import new_token
from replicate.store.result import Result

SECONDS = 180.0  # for all devices together; one that hangs must not block us
MIN_DISK = 2**30  # bytes: the records and checkpoints of a table, or CIFAR-10 unpacked
MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}
TRACEBACK = "`replicate matrix experiments/smoke.yaml --only init=lsuv activation=maxout` shows the whole traceback"
FIXES = {
    MEMORY: "free its memory (nvidia-smi shows who uses a GPU), or choose other devices with --devices",
    CUDA: "check with nvidia-smi that the GPU works and that its driver fits the CUDA version of this torch",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Args:
        topic: such as `devices`.
        text: what was found.
        good: True: it works; False: it does not; None: a fact.
        fix: what to do about it; empty if there is nothing to do.
    """

    topic: str
    text: str
    good: bool | None = None
    fix: str = ""


def examine(out: Path, data_dir: Path) -> int:
    """Check everything and print each finding with its fix.

    Args:
        out: where results would be written.
        data_dir: where data sets are found, and downloaded to.

    Returns:
        The exit code: 0 if a run can be trained on some device, else 1.
    """
    with LocalLauncher(preload=PRELOAD) as launcher:
        return show(chain(versions(), disk(out, data_dir), data(data_dir), wandb(), devices(launcher)), Console())


def show(findings: Iterator[Finding], console: Console) -> int:
    """Print findings under their topics, then which devices can train; the exit code is 1 if none can."""
    topic, trains, fails = "", list[str](), list[str]()
    for one in findings:
        if one.topic != topic:
            console.print(Text(one.topic, "bold"))
        topic, (mark, style) = one.topic, MARKS[one.good]
        # Long lines are paths and reasons that people copy, so they are not wrapped.
        console.print(Text(f"  {mark} ", style) + Text(escape_control_chars(one.text)), soft_wrap=True)
        if one.fix:
            console.print(Text(f"    → {escape_control_chars(one.fix)}", "yellow"), soft_wrap=True)
        if one.topic == "training":
            (trains if one.good else fails).append(one.text.partition(":")[0])
    sentence = f"ready to train on {', '.join(trains)}" if trains else "no device can train; see ✗ above"
    sentence += f"; not on {', '.join(fails)}" if trains and fails else ""
    console.print(sentence, markup=False, soft_wrap=True)
    return 0 if trains else 1


def versions() -> Iterator[Finding]:
    """Report the versions of the code and of the libraries that can change a number."""
    commit, dirty = provenance.commit()
    yield Finding("versions", f"code: {commit}{', with uncommitted changes' if dirty else ''}")
    for name, version in provenance.versions().items():
        missing = version == "not installed" and name != "lsuv-replication"
        yield Finding("versions", f"{name} {version}", False if missing else None, "make setup" if missing else "")


def disk(out: Path, data_dir: Path) -> Iterator[Finding]:
    """Check that both folders, which need not exist yet, can be written and have room."""
    for purpose, path in (("results (--out)", out), ("data (--data-dir)", data_dir)):
        parent = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        if parent.is_dir() and os.access(parent, os.W_OK):
            free, fix = shutil.disk_usage(parent).free, f"free some space, or choose another folder for {purpose}"
            yield _space("disk", f"{purpose}: {path}, {_gib(free)} free", free, MIN_DISK, fix)
        else:
            why = "not writable" if parent.is_dir() else "not a folder"
            yield Finding("disk", f"{purpose}: {parent} is {why}", False, f"choose another folder for {purpose}")


def data(data_dir: Path) -> Iterator[Finding]:
    """Report which data sets are available without a download."""
    for name, here in available(data_dir):
        if here:
            yield Finding("data", name, True)
        else:
            fix = f"it is downloaded at first use; without a network put {official_files(name)} into {data_dir}"
            yield Finding("data", f"{name}: not in {data_dir}", None, fix)


def wandb() -> Iterator[Finding]:
    """Report how runs are logged to Weights & Biases; the key itself is never shown."""
    try:
        mode = default_wandb_mode()
    except UsageError as error:
        yield Finding("W&B", str(error), False, "unset WANDB_MODE, or use --wandb")
        return
    known = wandb_key_known()
    fix = "" if known else "`wandb login`, for `--wandb online` or to run `make sync` later"
    yield Finding("W&B", f"logging is {mode}; API key {'found' if known else 'not found'}", None, fix)


def devices(launcher: LocalLauncher, train: str = TRAIN) -> Iterator[Finding]:
    """Look for devices, and train a tiny run on each, all at the same time.

    Args:
        launcher: starts the processes; torch is loaded there and not here.
        train: `module:function` that trains a run.
    """
    with tempfile.TemporaryDirectory() as folder:
        launcher.start("probe", "replicate.training.environment:probe", (), os.environ, Path(folder, "probe.log"))
        (probed,) = _ends(launcher, ["probe"])
        if isinstance(probed.value, Exception):
            yield Finding("torch", f"torch does not work: {probed.value}", False, "reinstall it: make setup")
            return
        yield from hardware(probed.value)
        tasks, gpus = {}, len(probed.value["gpus"])
        slots = make_slots("auto", 1, 1, gpus, os.environ.get("CUDA_VISIBLE_DEVICES")) if gpus else []
        for slot in [*slots, *make_slots("cpu", 1, 1, gpus)]:
            options = Options(Path(folder, slot.name), Path(folder), slot.device)
            task = tasks[slot.name] = Task(tiny_run(slot.device), options, slot.name, new_token(), train=train)
            launcher.start(slot.name, WORKER, (task,), {**os.environ, **slot.environment}, task.folder.log)
        for ended in _ends(launcher, list(tasks)):
            yield judge(tasks[ended.task], ended)


def hardware(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Report the GPUs, the processor and the memory.

    Args:
        found: what `training.environment.probe` returns.
    """
    for number, (name, free, total, error) in enumerate(found["gpus"]):
        text = f"gpu {number}: {name}, {error or f'{_gib(free)} free of {_gib(total)}'}"
        fix = "nvidia-smi shows its state and who uses it; choose other GPUs with --devices"
        yield _space("devices", text, free, RUN_MEMORY, fix)
    if not found["gpus"] and shutil.which("nvidia-smi"):
        build = f"for CUDA {found['cuda']}, which the driver must support" if found["cuda"] else "without CUDA"
        fix = f"if `nvidia-smi -L` lists GPUs, unset CUDA_VISIBLE_DEVICES; this torch was built {build}"
        yield Finding("devices", "torch finds no GPU, although NVIDIA's driver is installed", None, fix)
    elif not found["gpus"]:
        yield Finding("devices", "no NVIDIA GPU: the CPU is enough for `make smoke` and `make pilot`")
    elif not nvidia_mps.daemon_runs(os.environ):
        fix = f"if you use --per-device 2 or more, start it before the runs: {nvidia_mps.PROGRAM} -d"
        yield Finding("devices", "NVIDIA's MPS is not running: runs on the same GPU take turns", None, fix)
    text = f"cpu: {provenance.cpu_name()}, {found['capability']}, {cores()} threads"
    free = free_memory()
    yield _space("devices", f"{text}, {_gib(free)} of memory free", free, RUN_MEMORY, "end other programs")


def tiny_run(device: str) -> Run:
    """The smallest run from LSUV to a test accuracy, in the precision that the experiments use on `cuda` or `cpu`."""
    precision = "bf16-mixed" if device == "cuda" else "32-true"
    small: dict[str, Any] = {"width": 0.125, "batch_size": 32, "lsuv_batch_size": 32, "iterations": 2, "milestones": ()}
    return Run("lsuv", "maxout", dataset="synthetic", precision=precision, **small)


def judge(task: Task, event: Ended) -> Finding:
    """Judge a tiny run by the end of its process."""
    reason, kind = str(event.value), None
    match outcome_of(task, event, stopped=False, seconds=SECONDS):
        case Result() as result if result.final:
            return Finding("training", f"{task.device}: trains ({task.run.precision}; tiny run with LSUV)", good=True)
        case Result() as result:
            reason, kind = (result.error or "").strip().splitlines()[-1], result.passing
        case Failed() | GraphFailed() as failed:
            reason = failed.reason
    return Finding("training", f"{task.device}: does not train: {reason}", False, FIXES.get(kind or "", TRACEBACK))


def _ends(launcher: LocalLauncher, tasks: Sequence[str]) -> list[Ended]:
    """Wait for tasks, and stop those that take too long: their ends, in the same order."""
    ends: dict[str, Ended] = {}
    deadline = time.monotonic() + SECONDS
    while len(ends) < len(tasks) and (left := deadline - time.monotonic()) > 0:
        ends |= {event.task: event for event in launcher.events(timeout=left) if isinstance(event, Ended)}
    launcher.stop(5.0)
    late = RuntimeError(f"no answer in {SECONDS:.0f} s")
    return [ends.get(task, Ended(task, late)) for task in tasks]


def _space(topic: str, text: str, free: float, least: float, fix: str) -> Finding:
    return Finding(topic, text, False, fix) if free < least else Finding(topic, text)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"
