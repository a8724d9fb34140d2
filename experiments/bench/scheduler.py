"""The scheduler's own cost per run, as the queue grows."""

import tempfile
import time
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from rich.console import Console

from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import left_to_do
from replicate.matrix.scheduler import run_all
from replicate.matrix.slots import make_slots
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease
from replicate.store.result import Result

FINGERPRINT = "0" * 64


def nothing(run: Run, options: Options, lease: Lease, *_: object) -> Result:
    """Write a record at once, as a training that takes no time would."""
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
    """Measure the processor seconds that the scheduler itself spends per run, for queues of these lengths."""
    costs = []
    for length in lengths:
        runs = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(length)]
        with tempfile.TemporaryDirectory() as folder, Display(Console(file=StringIO())) as display:
            begin = time.process_time()
            todo = left_to_do(Path(folder), runs, {"synthetic": FINGERPRINT}, display)
            slots = make_slots("cpu", None, 1, gpus=0)
            run_all(launcher, runs, todo, slots, Options(Path(folder)), display, train=f"{__name__}:nothing")
            costs.append((length, (time.process_time() - begin) / length))
    return costs
