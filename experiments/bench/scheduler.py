"""The scheduler's own cost per run, as the queue grows."""

import tempfile
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import unfinished_runs
from replicate.matrix.resources import make_slots
from replicate.matrix.scheduler import Scheduler
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Result

FINGERPRINT = "0" * 64


def nothing(run: Run, options: Options, lease: Lease, *_: object) -> Result:
    """Write a record at once: a training that takes no time."""
    result = Result(
        run=run,
        status="diverged",
        seconds=0.0,
        fingerprint=FINGERPRINT,
        commit="unknown",
        versions={},
        device="none",
        options=options.plain(),
        finished="",
    )
    return lease.write_result(result)


def queue_cost(launcher: LocalLauncher, lengths: Sequence[int]) -> list[tuple[int, float]]:
    """Measure the processor seconds that the scheduler itself spends per run, for each length of the queue."""
    costs = []
    for length in lengths:
        runs = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(length)]
        with tempfile.TemporaryDirectory() as folder, Display(Console(file=StringIO())) as display:
            begin = time.process_time()
            todo = unfinished_runs(Path(folder), runs, {"synthetic": FINGERPRINT}, display)
            slots = make_slots("cpu", None, 1, gpus=0)
            scheduler = Scheduler(launcher, slots, Options(Path(folder)), display, train=f"{__name__}:nothing")
            scheduler.run(runs, todo)
            costs.append((length, (time.process_time() - begin) / length))
    return costs
