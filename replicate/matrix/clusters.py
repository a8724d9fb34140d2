"""The clusters that workers can be submitted to: SLURM, through submitit, and Ray.

Both have `device`, the kind of device that their workers use, and `workers`, those that wait or run, by name.
"""

import contextlib
import importlib
import io
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from replicate.errors import UsageError, unknown
from replicate.matrix.local import stoppable, tail
from replicate.matrix.scheduler import MatrixSummary
from replicate.store.files import refuse_link
from replicate.store.lease import new_token

STOP_SECONDS = 120.0  # that workers have to end, after they were asked to
QUEUE_SECONDS = 5.0  # between two looks at SLURM's queue

Work = Callable[[], MatrixSummary]
Outcome = MatrixSummary | Exception  # of a worker


class SlurmCluster:
    """Submits workers as arrays of SLURM jobs, and watches the queue.

    The job states of submitit are not used: without SLURM's accounting, they stay UNKNOWN after a `scancel` or the loss
    of a node.

    Args:
        folder: the jobs get a new folder in it; it must be on a disk that all nodes share.
        options: parameters of submitit as typed, such as `partition`; values that read as JSON are parsed.
        cores: CPU cores of a job, unless the options set them.

    Raises:
        UsageError: submitit is not installed, there is no SLURM, or there is no such parameter.
    """

    def __init__(self, folder: Path, options: Mapping[str, str], cores: int) -> None:
        executor = _import("submitit", "slurm").SlurmExecutor
        refuse_link(folder)
        logging.getLogger("submitit").setLevel(logging.CRITICAL)  # it warns of missing accounting
        # A worker is one process on one node.
        options = _checked("slurm", options, sorted(executor._valid_parameters() - {"nodes", "ntasks_per_node"}))
        parameters: dict[str, Any] = {"job_name": "replicate", "time": None, "cpus_per_task": cores}
        for name, text in options.items():
            parameters[name] = text
            with contextlib.suppress(ValueError):
                parameters[name] = json.loads(text)
        self._folder = folder / new_token()
        try:
            self._executor = executor(self._folder)
            self._executor.update_parameters(**parameters)
        except Exception as error:
            raise UsageError(f"--launcher slurm: {' '.join(str(error).split())}") from None
        self.device = "cuda" if any("gpu" in f"{name} {value}" for name, value in parameters.items()) else "cpu"
        self.workers: dict[str, Any] = {}
        self._missing: set[str] = set()  # from the queue at the last look
        self._looked = 0.0

    def submit(self, work: Work, count: int) -> str:
        """Submit workers, and describe what was submitted.

        Raises:
            UsageError: SLURM refuses them.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the jobs' results are pickles
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the exception says the same
                jobs = self._executor.map_array(_slurm_worker, [work] * count)
        except Exception as error:
            raise UsageError(f"SLURM refuses the jobs: {' '.join(str(error).split())}") from None
        self.workers |= {f"SLURM job {job.job_id}": job for job in jobs}
        return f"{count} worker{'s' * (count > 1)} as SLURM job {jobs[0].job_id.split('_')[0]}"

    def ended(self) -> Iterator[tuple[str, Outcome]]:
        """Yield the workers that have ended since the last call, not those that have gone back into the queue."""
        if time.monotonic() - self._looked < QUEUE_SECONDS:
            return
        queued, self._looked = self._queued(), time.monotonic()  # asked first: a job writes its result before it ends
        for name, job in list(self.workers.items()):
            if job.paths.result_pickle.exists():
                del self.workers[name]
                try:
                    yield name, job.exception() or job.result()
                except Exception as error:  # a node that is lost may leave half a file
                    yield name, RuntimeError(f"its result cannot be read ({type(error).__name__})")
            elif name not in queued and name not in self._missing:
                self._missing.add(name)  # its result may only be late
            elif name not in queued:
                del self.workers[name]
                said = tail(job.paths.stderr, 3).replace("\n", "; ")
                why = "it was cancelled or killed, or its node was lost"
                yield name, RuntimeError(f"{why}; it said: {said}" if said else why)

    def stop(self) -> None:
        """Cancel every worker: SLURM sends SIGTERM, so that its runs save checkpoints, and kills it after KillWait."""
        if self.workers:
            _call("scancel", "--quiet", *(job.job_id for job in self.workers.values()))
        end = time.monotonic() + STOP_SECONDS
        while self.workers.keys() & self._queued() and time.monotonic() < end:
            time.sleep(0.5)
        self.workers.clear()

    def _queued(self) -> set[str]:
        """Ask which workers are in the queue, waiting, running or ending; all, if SLURM does not answer."""
        answer = _call("squeue", "--noheader", "--array", "--me", "--format=SLURM job %i")
        return set(self.workers if answer is None else answer.splitlines())


def _slurm_worker(work: Work) -> Outcome:
    """Do a worker's work in a job. If SLURM stops it with unfinished runs, put the job back into the queue."""
    with stoppable() as stopped:
        outcome = _guarded(work)
        job = os.environ["SLURM_JOB_ID"]
        if stopped() and isinstance(outcome, MatrixSummary) and outcome.unfinished:
            # A job that is being cancelled is not RUNNING any more, and stays cancelled.
            running = _call("squeue", "--noheader", f"--jobs={job}", "--format=%T") == "RUNNING\n"
            if running and _call("scontrol", "requeue", job) is not None:
                sys.exit(0)  # without a result, which will come later
    return outcome


def _call(*command: str) -> str | None:
    """Run a program of SLURM, out of reach of the terminal's Ctrl-C; None: it failed."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True, check=True)
        return done.stdout
    return None


class RayCluster:
    """Submits workers as tasks of a Ray cluster.

    Args:
        options: as typed: `address` of the cluster (without it, one is started on this machine), and `num_cpus` and
            `num_gpus` of a worker.
        cores: CPU cores of a worker, unless the options set them.
        gpus: GPUs of a worker on a cluster that has any, unless the options set them.

    Raises:
        UsageError: Ray is not installed, there is no such cluster, or there is no such option.
    """

    def __init__(self, options: Mapping[str, str], cores: int, gpus: int) -> None:
        self._ray = _import("ray", "ray")
        options = _checked("ray", options, ("address", "num_cpus", "num_gpus"))
        numbers = {name: text for name, text in options.items() if name != "address"}
        for name, text in numbers.items():
            if not text.isdecimal():
                raise UsageError(f"--ray.{name} {text} is not a whole number; runs share a device by --per-device")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # users have not asked to send statistics
        try:
            # Ray lets workers import from the current folder, where a file may have a library's name.
            with contextlib.chdir("/"):
                self._ray.init(options.get("address"), log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # Ray has many types for a cluster that it cannot reach
            raise UsageError(f"--launcher ray: {' '.join(str(error).split())}") from None
        resources = {"num_cpus": cores, "num_gpus": gpus if self._ray.cluster_resources().get("GPU") else 0}
        resources |= {name: int(text) for name, text in numbers.items()}
        self.device = "cuda" if resources["num_gpus"] else "cpu"
        # max_calls: the process ends after one worker, so that nothing that its runs leave there remains.
        self._task = self._ray.remote(max_calls=1, max_retries=0, **resources)(_guarded)
        self.workers: dict[str, Any] = {}

    def submit(self, work: Work, count: int) -> str:
        """Submit workers, and describe what was submitted. Ray starts them when there is room."""
        tasks = [self._task.remote(work) for _ in range(count)]
        self.workers |= {f"Ray task {task.hex()[:16]}": task for task in tasks}
        return f"{count} worker{'s' * (count > 1)} to Ray"

    def ended(self) -> Iterator[tuple[str, Outcome]]:
        """Yield the workers that have ended since the last call, with their outcomes."""
        for name, worker in list(self.workers.items()):
            if self._ray.wait([worker], timeout=0)[0]:
                del self.workers[name]
                try:
                    yield name, self._ray.get(worker)
                except Exception as error:  # Ray has many types for a lost node or process
                    yield name, RuntimeError(f"Ray lost it ({type(error).__name__})")

    def stop(self) -> None:
        """Send a SIGINT to every worker, so that its runs save checkpoints, and kill it after STOP_SECONDS."""
        workers = list(self.workers.values())
        for worker in workers:
            self._ray.cancel(worker, force=False)
        self._ray.wait(workers, num_returns=len(workers), timeout=STOP_SECONDS)
        self.workers.clear()
        self._ray.shutdown()  # which kills the rest


def _guarded(work: Work) -> Outcome:
    """Do a worker's work, and return what it raises: other exceptions than UsageError may not survive pickling."""
    try:
        with stoppable():
            return work()
    except UsageError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return RuntimeError(f"{type(error).__name__}: {error}")


def _import(module: str, launcher: str) -> Any:
    """Import the library of a launcher: it is an optional dependency, and slow to load."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"--launcher {launcher} needs {module}; install it: pip install '.[{launcher}]'") from None


def _checked(launcher: str, options: Mapping[str, str], choices: Collection[str]) -> dict[str, str]:
    """Return the options with `_` for `-` in their names, or raise a UsageError if the launcher does not have one."""
    found = {name.replace("-", "_"): text for name, text in options.items()}
    for name in found:
        if name not in choices:
            raise unknown("option", f"--{launcher}.{name}", [f"--{launcher}.{choice}" for choice in choices])
    return found
