"""The launcher for SLURM, through submitit: a job for the runs of a slot, all jobs of a moment in one array."""

import contextlib
import getpass
import io
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from replicate.errors import UsageError, unknown
from replicate.matrix import remote
from replicate.matrix.local import Event, tail
from replicate.matrix.remote import LaunchedTask
from replicate.store.lease import new_token

LOOK_SECONDS = 5.0  # between two looks at the queue
LATE_SECONDS = 15.0  # a network file system may show a job's result so long after the job has left the queue
STOP_SECONDS = 120.0  # between asking jobs to end and cancelling them
OURS = ("nodes", "ntasks_per_node")  # a run is one process on one node


@dataclass(slots=True)
class _Job:
    handle: Any  # submitit.Job, whose types come with an extra that need not be installed
    tasks: Sequence[LaunchedTask]
    gone: float | None = field(default=None)  # when it was first missing from the queue

    @property
    def number(self) -> str:
        return str(self.handle.job_id)


class SlurmLauncher:
    """Submits tasks and watches them.

    Whether a job lives is for SLURM's queue to say; how far its runs are, their leases tell. submitit's own state is
    never asked: without accounting it stays UNKNOWN for ever after a `scancel` or the loss of a node.

    Args:
        folder: a new folder for the jobs is made in it, on a disk that all nodes share.
        options: submitit's parameters as typed, such as `partition`.
        preload: module that a job loads before its runs start.
        cores: CPU cores of a job, unless the options say it.

    Raises:
        UsageError: there is no submitit, no SLURM, or no such parameter.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], preload: str, cores: int) -> None:
        try:
            import submitit  # an extra, and slow to load
        except ImportError:
            raise UsageError(
                "--launcher slurm needs submitit, which is not installed: pip install '.[slurm]'"
            ) from None
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it complains of missing accounting
        executor = submitit.SlurmExecutor
        choices = sorted(executor._valid_parameters() - set(OURS))
        for name in options:
            if name not in choices:
                raise unknown("option of SLURM's", f"--slurm.{name}", [f"--slurm.{choice}" for choice in choices])
        parameters = {"job_name": "replicate", "time": None, "cpus_per_task": cores} | remote.values(options)
        self._folder, self._preload = folder / new_token(), preload
        try:
            self._executor = executor(self._folder)
            self._executor.update_parameters(**parameters)
        except Exception as error:
            raise UsageError(f"--launcher slurm: {str(error).splitlines()[0]}") from None
        self.device = "cuda" if any("gpu" in f"{name} {value}" for name, value in parameters.items()) else "cpu"
        self._new: dict[str, list[LaunchedTask]] = {}
        self._jobs: dict[str, _Job] = {}
        self._looked, self._submitted = -math.inf, False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        task: str,
        function: str,
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
        log: Path,
        place: str = "",
    ) -> None:
        """Note a task for the next submission; see Launcher."""
        # The job has an environment of its own, in which SLURM says which GPU is its.
        differing = {key: value for key, value in environment.items() if os.environ.get(key) != value}
        self._new.setdefault(place, []).append(LaunchedTask(task, function, arguments, differing, log))

    def events(self, timeout: float) -> Iterator[Event]:
        """Submit what was started, and yield what has become of the tasks; those of a job end together."""
        yield from self._submit()
        for job in list(self._jobs.values()):
            if job.handle.paths.result_pickle.exists():
                yield from self._ended(job)
        if time.monotonic() - self._looked < LOOK_SECONDS:
            time.sleep(timeout)
            return
        queued = self._queued()
        self._looked = time.monotonic()
        for job in list(self._jobs.values()):
            if queued is None or job.number in queued:
                job.gone = None
                yield from remote.progress(job.tasks)
            elif job.gone is None:
                job.gone = self._looked
            elif self._looked - job.gone > LATE_SECONDS:
                del self._jobs[job.number]
                yield from _lost(job.tasks, self._end_of(job))

    def stop(self, seconds: float = math.inf) -> None:
        """End all jobs: those that run save checkpoints first, if it takes no longer than that."""
        self._new.clear()
        if self._jobs:
            (self._folder / remote.MARK).touch()
            self._cancel("--state=PENDING")
            self._cancel("--signal=TERM")  # the mark alone would do, but network file systems show it late
        end = time.monotonic() + min(seconds, STOP_SECONDS)
        while self._jobs and time.monotonic() < end:
            queued = self._queued()
            for job in list(self._jobs.values()):
                if job.handle.paths.result_pickle.exists() or (queued is not None and job.number not in queued):
                    del self._jobs[job.number]
            time.sleep(0.5)
        if self._jobs:
            self._cancel()
            self._jobs.clear()
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()  # another command may have its jobs there

    def _submit(self) -> Iterator[Event]:
        packs, self._new = list(self._new.values()), {}
        for begin in range(0, len(packs), remote.AT_ONCE):
            some = packs[begin : begin + remote.AT_ONCE]
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the jobs' results are pickles
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # the exception says the same
                    handles = self._executor.submit_array(
                        [partial(job, pack, self._folder, self._preload) for pack in some]
                    )
            except Exception as error:  # submitit's own, or the system's
                why = (str(error).strip().splitlines() or [repr(error)])[-1]
                if not self._submitted:
                    raise UsageError(f"SLURM refuses the jobs: {why}") from None
                for pack in some:
                    yield from _lost(pack, f"SLURM refused the job: {why}")
                continue
            self._submitted = True
            self._jobs |= {str(one.job_id): _Job(one, pack) for one, pack in zip(handles, some, strict=True)}

    def _ended(self, job: _Job) -> Iterator[Event]:
        del self._jobs[job.number]
        try:
            (events,) = job.handle.results()
        except Exception as error:  # of `job`, which submitit carries here as text, or a file that cannot be read
            yield from _lost(job.tasks, f"SLURM job {job.number} failed: {str(error).splitlines()[-1]}")
            return
        for event in events:
            if remote.stopped(event):
                reason = f"SLURM job {job.number} was told to end (preemption, time limit or scancel)"
                yield Event("lost", event.task, reason)
            else:
                yield event

    def _queued(self) -> set[str] | None:
        """Ask which jobs are in the queue, waiting, running or ending; None: SLURM does not answer."""
        numbers = ",".join({number.split("_")[0] for number in self._jobs})
        if not numbers:
            return set()
        command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i"]
        done = _call(*command)
        return None if done is None else set(done.split())

    def _end_of(self, job: _Job) -> str:
        said = tail(job.handle.paths.stderr, 3).replace("\n", "; ")
        why = f"SLURM job {job.number} ended without a word (cancelled, killed, or its node was lost)"
        return f"{why}; it said: {said}" if said else why

    def _cancel(self, *how: str) -> None:
        numbers = list(self._jobs)
        for begin in range(0, len(numbers), 500):  # a command line has its limits
            _call("scancel", "--quiet", *how, *numbers[begin : begin + 500])


def job(tasks: Sequence[LaunchedTask], folder: Path, preload: str) -> list[Event]:
    """Carry out tasks, in a job of SLURM's; told to end by SLURM and not by us, it goes back into the queue."""
    start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    events = remote.work(tasks, folder, preload, os.environ, start)
    number = os.environ["SLURM_JOB_ID"]
    preempted = any(remote.stopped(event) for event in events) and not (folder / remote.MARK).exists()
    # A job that somebody cancels is ending already, and stays cancelled.
    running = preempted and _call("squeue", "--noheader", f"--jobs={number}", "--format=%T") == "RUNNING\n"
    if running and _call("scontrol", "requeue", number) is not None:
        sys.exit(0)  # without a result, for there will be one
    return events


def _lost(tasks: Sequence[LaunchedTask], why: str) -> Iterator[Event]:
    for task in tasks:
        yield Event("lost", task.name, why)


def _call(*command: str) -> str | None:
    """Run a program of SLURM's, out of reach of the terminal's Ctrl-C; None: it failed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True, check=True)
        return done.stdout
    return None
