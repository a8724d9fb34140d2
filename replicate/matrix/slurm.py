"""Workers as an array of SLURM jobs, through submitit."""

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
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from replicate.errors import UsageError, unknown
from replicate.matrix.local import tail
from replicate.matrix.scheduler import Outcome
from replicate.matrix.signals import stoppable
from replicate.matrix.submit import STOP_SECONDS, Ended, Failure, Work, guarded, values
from replicate.store.lease import new_token

LOOK_SECONDS = 5.0  # between two looks at the queue
MARK = "stop"  # file in the folder of the jobs: who ends is not to go back into the queue
OURS = ("nodes", "ntasks_per_node")  # a worker is one process on one node


class SlurmCluster:
    """Submits workers and watches the queue.

    submitit's own state is not used: without SLURM's accounting it stays UNKNOWN for ever after a `scancel` or the loss
    of a node.

    Args:
        folder: a new folder for the jobs is made in it, on a disk that all nodes share.
        options: parameters of submitit as typed, such as `partition`.
        cores: CPU cores of a job, unless the options say it.

    Raises:
        UsageError: there is no submitit, no SLURM, or no such parameter.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], cores: int) -> None:
        try:
            import submitit  # an extra, and slow to load
        except ImportError:
            raise UsageError(
                "--launcher slurm needs submitit, which is not installed: pip install '.[slurm]'"
            ) from None
        if folder.is_symlink():
            raise UsageError(f"{folder} is a symbolic link, and nothing is written through one; remove it")
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it complains of missing accounting
        choices = sorted(submitit.SlurmExecutor._valid_parameters() - set(OURS))
        for name in options:
            if name not in choices:
                raise unknown("option of SLURM", f"--slurm.{name}", [f"--slurm.{choice}" for choice in choices])
        parameters = {"job_name": "replicate", "time": None, "cpus_per_task": cores} | values(options)
        self._folder = folder / new_token()
        try:
            self._executor = submitit.SlurmExecutor(self._folder)
            self._executor.update_parameters(**parameters)
        except Exception as error:
            raise UsageError(f"--launcher slurm: {str(error).splitlines()[0]}") from None
        self.device = "cuda" if any("gpu" in f"{name} {value}" for name, value in parameters.items()) else "cpu"
        # By number, submitit.Jobs, whose types come with an extra that need not be installed.
        self._jobs: dict[str, Any] = {}
        self._missing: set[str] = set()  # from the queue, when we last looked
        self._looked, self._keeps_logs = -math.inf, False

    @property
    def alive(self) -> int:
        """See Cluster; a job that SLURM puts back into the queue is alive."""
        return len(self._jobs)

    def submit(self, work: Work, count: int) -> str:
        """See Cluster."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the jobs' results are pickles
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the exception says the same
                handles = self._executor.submit_array([partial(_worker, work, self._folder / MARK)] * count)
        except Exception as error:  # submitit's own, or the system's
            why = (str(error).strip().splitlines() or [repr(error)])[-1]
            raise UsageError(f"SLURM refuses the jobs: {why}") from None
        self._jobs |= {str(one.job_id): one for one in handles}
        return f"{count} worker{'s' * (count > 1)} as SLURM job {handles[0].job_id.split('_')[0]}"

    def ended(self) -> Iterator[Ended]:
        """See Cluster."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        missing, self._looked = self._jobs.keys() - self._queued(), time.monotonic()
        for number, job in list(self._jobs.items()):
            if job.paths.result_pickle.exists():
                yield Ended(f"SLURM job {number}", self._outcome(self._jobs.pop(number)))
            elif number in missing & self._missing:  # not at the first look: the result may only be late
                del self._jobs[number]
                said = tail(job.paths.stderr, 3).replace("\n", "; ")
                why = "it was cancelled or killed, or its node was lost"
                yield Ended(f"SLURM job {number}", Failure(f"{why}; it said: {said}" if said else why))
        self._missing = missing

    def cancel_waiting(self) -> None:
        """See Cluster."""
        self._cancel("--state=PENDING")

    def stop(self) -> None:
        """See Cluster."""
        if self._jobs:
            (self._folder / MARK).touch()
            self.cancel_waiting()
            self._cancel("--signal=TERM")
        end = time.monotonic() + STOP_SECONDS
        while self._jobs and time.monotonic() < end:
            queued = self._queued()
            self._jobs = {
                number: job
                for number, job in self._jobs.items()
                if number in queued and not job.paths.result_pickle.exists()
            }
            time.sleep(0.5)
        if self._jobs:
            self._cancel()
            self._jobs.clear()
        elif not self._keeps_logs:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self._folder.parent.rmdir()  # another command may have its jobs there

    def _outcome(self, job: Any) -> Outcome | Failure:
        try:
            (outcome,) = job.results()
        except Exception as error:  # a file that cannot be read
            outcome = Failure(f"{type(error).__name__}: {error}".splitlines()[0])
        self._keeps_logs |= isinstance(outcome, Failure)
        return outcome  # type: ignore[no-any-return]  # of `_worker`

    def _queued(self) -> set[str]:
        """Ask which jobs are in the queue, waiting, running or ending; all, where SLURM does not answer."""
        answer = _call("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i")
        return set(self._jobs if answer is None else answer.split())

    def _cancel(self, *how: str) -> None:
        numbers = list(self._jobs)
        for begin in range(0, len(numbers), 500):  # a command line has its limits
            _call("scancel", "--quiet", *how, *numbers[begin : begin + 500])


def _worker(work: Work, mark: Path) -> Outcome | Failure:
    """Do a worker's work in a job. Stopped by SLURM and not by us, with runs left, it goes back into the queue."""
    if mark.exists():
        return Outcome(0, 0)
    with stoppable() as stopped:
        outcome = guarded(work)
        preempted = stopped() and isinstance(outcome, Outcome) and outcome.left and not mark.exists()
        # A job that somebody cancels is ending already, and stays cancelled.
        number = os.environ["SLURM_JOB_ID"]
        running = preempted and _call("squeue", "--noheader", f"--jobs={number}", "--format=%T") == "RUNNING\n"
        if running and _call("scontrol", "requeue", number) is not None:
            sys.exit(0)  # without a result, for there will be one
    return outcome


def _call(*command: str) -> str | None:
    """Run a program of SLURM, out of reach of the terminal's Ctrl-C; None: it failed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True, check=True)
        return done.stdout
    return None
