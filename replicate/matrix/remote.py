"""What all clusters have in common: tasks that share a job, how a job carries them out, and what is heard of them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from replicate.matrix.local import Event, LocalLauncher
from replicate.matrix.signals import stoppable
from replicate.matrix.slots import Slot
from replicate.matrix.task import Stopped, Task
from replicate.store.watch import LeaseWatch

MARK = "stop"  # file in the launcher's folder that tells its jobs to end
AT_ONCE = 1000  # jobs in the queue: SLURM's own limit of an array (MaxArraySize) where nobody has set another


@dataclass(frozen=True, slots=True)
class LaunchedTask:
    """What a launcher was told to start; `environment`: what differs from the launcher's own."""

    name: str
    function: str
    arguments: tuple[Any, ...]
    environment: Mapping[str, str]
    log: Path


def slots(device: str, runs: int, per_device: int | None) -> list[Slot]:
    """Make a slot for every run, as many of one name as are to share a job; the cluster's queue does the rest.

    Args:
        device: `cuda` or `cpu`, where the jobs run.
        runs: that were asked for.
        per_device: runs that share a job; None: 1.
    """
    each = per_device or 1
    environment = {} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
    jobs = min(-(-runs // each), AT_ONCE)
    return [Slot(f"job {number}", device, environment) for number in range(jobs) for _ in range(each)]


def values(options: Mapping[str, str]) -> dict[str, Any]:
    """Read the cluster's options as typed: numbers, true and false, lists and objects as JSON, all else as text."""
    return {name: _value(text) for name, text in options.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def work(
    tasks: Sequence[LaunchedTask], folder: Path, preload: str, environment: Mapping[str, str], start: int
) -> list[Event]:
    """Carry out tasks side by side, in a job. A signal or the mark in the folder ends them, each with a checkpoint.

    Args:
        tasks: which.
        folder: the launcher's, on a disk that it shares with the job.
        preload: module for LocalLauncher.
        environment: of the job.
        start: 0, or how often the cluster has put the job back into its queue.

    Returns:
        The last event of each.
    """
    ended: dict[str, Event] = {}
    with LocalLauncher(preload) as launcher, stoppable() as signalled:
        for task in tasks:
            arguments = tuple(again(one, start) if isinstance(one, Task) else one for one in task.arguments)
            launcher.start(task.name, task.function, arguments, {**environment, **task.environment}, task.log)
        while len(ended) < len(tasks) and not (signalled() or (folder / MARK).exists()):
            ended |= {event.task: event for event in launcher.events(timeout=1.0) if event.kind != "progress"}
        launcher.stop()
    # What was ended here may have come to its end at this very moment; whoever asks next finds its record.
    return [ended.get(task.name) or Event("done", task.name, Stopped()) for task in tasks]


def again(task: Task, start: int) -> Task:
    """Make the task of a job that its cluster restarts: it takes over from its earlier start, dead or alive."""
    if not start:
        return task
    return replace(task, token=f"{task.token}.{start}", expired_token=task.current_token or task.expired_token)


def progress(tasks: Sequence[LaunchedTask]) -> Iterator[Event]:
    """Tell how far runs are, from the heartbeats of their leases."""
    watch = LeaseWatch()
    for launched in tasks:
        task: Task = launched.arguments[0]
        info = watch.look(task.folder)
        if info is not None and info.owner is not None and info.token.startswith(task.token):
            yield Event("progress", launched.name, (info.owner.iteration, info.owner.test_accuracy))


def stopped(event: Event) -> bool:
    """Whether a task was ended by a signal or by the mark."""
    return event.kind == "done" and isinstance(event.value, Stopped)
