"""Workers as tasks of a Ray cluster."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from replicate.errors import UsageError, unknown
from replicate.matrix.scheduler import Outcome
from replicate.matrix.signals import stoppable
from replicate.matrix.submit import STOP_SECONDS, Ended, Failure, Work, guarded, values

CHOICES = ("address", "num_cpus", "num_gpus")


class RayCluster:
    """Gives workers to a Ray cluster.

    Args:
        options: as typed: `address` of the cluster (without it, one is started on this machine), and `num_cpus` and
            `num_gpus` of a worker.
        cores: CPU cores of a worker, unless the options say it.
        gpus: GPUs of a worker on a cluster that has any, unless the options say it.

    Raises:
        UsageError: there is no Ray, no such cluster, or no such option.
    """

    def __init__(self, options: Mapping[str, str], cores: int, gpus: int) -> None:
        try:
            import ray  # an extra, and slow to load
        except ImportError:
            raise UsageError("--launcher ray needs Ray, which is not installed: pip install '.[ray]'") from None
        for name in options:
            if name not in CHOICES:
                raise unknown("option of Ray", f"--ray.{name}", [f"--ray.{choice}" for choice in CHOICES])
        numbers = {name: value for name, value in values(options).items() if name != "address"}
        for name, number in numbers.items():
            if type(number) is not int or number < 0:
                hint = "; runs share a GPU by --per-device" if name == "num_gpus" else ""
                raise UsageError(f"--ray.{name} {number} is not a whole number{hint}")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # users have not asked to send statistics
        self._ray: Any = ray
        try:
            self._ray.init(options.get("address"), log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:  # Ray has many kinds for a cluster that is not there
            where = options.get("address", "a cluster of this machine")
            raise UsageError(f"--launcher ray: no connection to {where}: {str(error).splitlines()[0]}") from None
        has_gpus = bool(self._ray.cluster_resources().get("GPU"))
        asked = {"num_cpus": cores, "num_gpus": gpus * has_gpus} | numbers
        self.device = "cuda" if asked["num_gpus"] else "cpu"
        # A process of Ray ends after one worker, and with it all that its runs may have left there.
        self._task = self._ray.remote(max_calls=1, max_retries=0, **asked)(_worker)
        self._running: dict[Any, str] = {}
        self._count = 0

    @property
    def alive(self) -> int:
        """See Cluster."""
        return len(self._running)

    def submit(self, work: Work, count: int) -> str:
        """See Cluster; Ray starts them when there is room."""
        for number in range(self._count, self._count + count):
            self._running[self._task.remote(work)] = f"Ray worker {number}"
        self._count += count
        return f"{count} worker{'s' * (count > 1)} to Ray"

    def ended(self) -> Iterator[Ended]:
        """See Cluster."""
        if not self._running:
            return
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        for reference in ready:
            name = self._running.pop(reference)
            try:
                yield Ended(name, self._ray.get(reference))
            except Exception as error:  # Ray has many kinds for a lost node or process
                yield Ended(name, Failure(f"Ray lost it ({type(error).__name__})"))

    def cancel_waiting(self) -> None:
        """Nothing: a worker that Ray starts now finds no run and ends."""

    def stop(self) -> None:
        """See Cluster. Ray's polite cancellation is a SIGINT to the worker, which heeds it."""
        references = list(self._running)
        for force in (False, True):
            if references:
                for reference in references:
                    with contextlib.suppress(Exception):
                        self._ray.cancel(reference, force=force)
                _, references = self._ray.wait(references, num_returns=len(references), timeout=STOP_SECONDS)
        self._running.clear()
        self._ray.shutdown()


def _worker(work: Work) -> Outcome | Failure:
    with stoppable():
        return guarded(work)
