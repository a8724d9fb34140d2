"""The launcher for Ray: a task of Ray's for each run, which has its share of a GPU and a process of its own."""

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from replicate.errors import UsageError, unknown
from replicate.matrix import remote
from replicate.matrix.local import Event
from replicate.matrix.remote import LaunchedTask
from replicate.store.lease import new_token

LOOK_SECONDS = 5.0  # between two looks at how far the runs are
STOP_SECONDS = 120.0  # between asking tasks to end and ending them
CHOICES = ("address", "num_gpus")


class RayLauncher:
    """Gives tasks to a Ray cluster and waits for them.

    Ray's own retries are off: the scheduler's are counted, told of, and go on from the checkpoint.

    Args:
        folder: a new folder for the mark that ends tasks is made in it, on a disk that all nodes share.
        options: `address` of the cluster (without it, one of this machine is started) and `num_gpus` of a run.
        preload: module that a task loads before its run starts.
        cores: CPU cores of a run.
        per_device: runs that share a GPU.

    Raises:
        UsageError: there is no Ray, no such cluster, or no such option.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], preload: str, cores: int, per_device: int) -> None:
        try:
            import ray  # an extra, and slow to load
        except ImportError:
            raise UsageError("--launcher ray needs Ray, which is absent: pip install '.[ray]'") from None
        for name in options:
            if name not in CHOICES:
                raise unknown("option of Ray's", f"--ray.{name}", [f"--ray.{choice}" for choice in CHOICES])
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what a user does is sent to nobody unasked
        self._ray: Any = ray
        self._folder, self._preload = folder / new_token(), preload
        try:
            self._ray.init(options.get("address"), log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # a cluster that is not there, in whatever words
            where = options.get("address", "a cluster of this machine")
            raise UsageError(f"--launcher ray: no connection to {where}: {str(error).splitlines()[0]}") from None
        gpus = 1 / per_device if self._ray.cluster_resources().get("GPU") else 0
        asked = remote.values(options).get("num_gpus", gpus)
        if not isinstance(asked, int | float) or asked < 0:
            raise UsageError(f"--ray.num_gpus {asked} is no number of GPUs, such as 0, 0.5 or 1")
        self.device = "cuda" if asked else "cpu"
        # Runs on a GPU at a time; without GPUs Ray gives each run cores of its own.
        self.per_device = max(1, int(1 / asked + 1e-9)) if asked else 1
        # max_calls: a process of Ray's that has had one task ends, and with it whatever the run has left there.
        self._task = self._ray.remote(num_cpus=cores, num_gpus=asked, max_calls=1, max_retries=0)(_work)
        self._running: dict[Any, LaunchedTask] = {}
        self._looked = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._ray.shutdown()

    def start(
        self,
        task: str,
        function: str,
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
        log: Path,
        place: str = "",
    ) -> None:
        """Give a task to Ray; see Launcher. Ray shares out the devices itself."""
        differing = {key: value for key, value in environment.items() if os.environ.get(key) != value}
        one = LaunchedTask(task, function, arguments, differing, log)
        self._running[self._task.remote([one], self._folder, self._preload)] = one

    def events(self, timeout: float) -> Iterator[Event]:
        """Yield what the tasks have to say within `timeout` seconds; a task's last event is no progress."""
        if not self._running:
            time.sleep(timeout)
            return
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout)
        for reference in ready:
            task = self._running.pop(reference)
            yield self._ending(reference, task)
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            yield from remote.progress(list(self._running.values()))

    def _ending(self, reference: Any, task: LaunchedTask) -> Event:
        try:
            (event,) = self._ray.get(reference)
        except Exception as error:  # Ray's word for a lost node or process, or what `work` raised
            return Event("lost", task.name, f"Ray lost the run: {type(error).__name__}")
        if remote.stopped(event):
            return Event("lost", task.name, "Ray told the run to end")
        return Event(event.kind, event.task, event.value)

    def stop(self, seconds: float = math.inf) -> None:
        """End all tasks: those that run save checkpoints first, if it takes no longer than that."""
        if not self._running:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / remote.MARK).touch()  # a task that starts now ends at once
        for reference, one in self._running.items():
            if one.arguments[0].current_token is None:  # nothing to save: it need not be started to be told so
                self._ray.cancel(reference)
        references = list(self._running)
        _, late = self._ray.wait(references, num_returns=len(references), timeout=min(seconds, STOP_SECONDS))
        for reference in late:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running.clear()
        if not late:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()


def _work(tasks: Sequence[LaunchedTask], folder: Path, preload: str) -> list[Event]:
    return remote.work(tasks, folder, preload, os.environ, start=0)
