"""Measure the baseline and our own paths, one process and several at once, on one device."""

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.limits import cores
from replicate.matrix.local import LocalLauncher, Progress, tail
from replicate.options import Options
from replicate.run import Run

if TYPE_CHECKING:
    from bench.measure import Speed

MEASURE = "bench.measure:measure"
CEILING = "bench.measure:matmul_rate"
# The training loops to compare, by device
PATHS = {"cpu": ("baseline", "eager"), "cuda": ("baseline", "eager", "graph", "compiled")}
ACTIVATIONS = ("relu", "maxout")


class MeasurementError(Exception):
    """A measurement failed; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: every path with every activation and every number of processes.

    Args:
        run: the net and the precision; its activation is replaced.
        options: options of the processes.
        environment: environment of the processes.
        paths: some of PATHS.
        activations: activations of the net.
        at_once: numbers of simultaneous processes.
        windows: number of time windows.
        seconds: length of a window.
        profiled: whether one process of each row records its kernels after the windows.
    """

    run: Run
    options: Options
    environment: Mapping[str, str]
    paths: Sequence[str]
    activations: Sequence[str]
    at_once: Sequence[int]
    windows: int
    seconds: float
    profiled: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """The speed of one path, summed over the simultaneous processes.

    Args:
        path: one of PATHS.
        activation: activation of the net.
        at_once: processes on the device.
        iterations_per_second: sum of the medians over the windows.
        images_per_second: the same for images.
        share: share of the ceiling, which is the rate of a large matrix product; on a CPU, of one on each core in use.
        peak_memory: sum in bytes.
        startup: seconds to the end of the first iteration of the slowest process.
        operations: floating-point operations of one iteration.
        kernels: table of the kernels of a few iterations in one process; empty if it was not recorded.
    """

    path: str
    activation: str
    at_once: int
    iterations_per_second: float
    images_per_second: float
    share: float
    peak_memory: int
    startup: float
    operations: int
    kernels: str = ""


def compare(launcher: LocalLauncher, plan: Plan, display: Display) -> tuple[float, str, list[Row]]:
    """Measure everything in the plan.

    Args:
        launcher: starts the processes.
        plan: what is measured.
        display: shows what is being measured.

    Returns:
        The device's ceiling in FLOP/s, its name, and the rows.

    Raises:
        MeasurementError: a measurement failed; the message names it and its first error.
    """
    bf16 = plan.run.precision == "bf16-mixed"
    [(ceiling, name)] = carry_out(launcher, [(CEILING, (plan.options, bf16))], plan.environment)
    rows = []
    for activation, count, path in itertools.product(plan.activations, plan.at_once, plan.paths):
        label = f"{activation}, {count} at once, {path}"
        display.note(label)
        try:
            rows.append(_row(launcher, plan, path, activation, count, ceiling))
        except MeasurementError as error:
            raise MeasurementError(f"{label}: {error}") from None
    return ceiling, name or provenance.cpu_name(), rows


def _row(launcher: LocalLauncher, plan: Plan, path: str, activation: str, count: int, ceiling: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "open"
        run = replace(plan.run, activation=activation)
        common = (path, run, plan.options, time.time(), gate, plan.windows, plan.seconds)
        tasks = [(MEASURE, (*common, plan.profiled and number == 0)) for number in range(count)]
        speeds: list[Speed] = carry_out(launcher, tasks, plan.environment, gate)
    rate, operations = sum(statistics.median(speed.rates) for speed in speeds), speeds[0].operations
    processors = min(count, cores()) if plan.options.device == "cpu" else 1
    return Row(
        path=path,
        activation=activation,
        at_once=count,
        iterations_per_second=rate,
        images_per_second=rate * run.batch_size,
        share=rate * operations / (ceiling * processors),
        peak_memory=sum(speed.peak_memory for speed in speeds),
        startup=max(speed.startup for speed in speeds),
        operations=operations,
        kernels=next((speed.kernels for speed in speeds if speed.kernels), ""),
    )


def carry_out(
    launcher: LocalLauncher,
    tasks: Sequence[tuple[str, tuple[Any, ...]]],
    environment: Mapping[str, str],
    gate: Path | None = None,
) -> list[Any]:
    """Carry out tasks at the same time, and open the gate once all have reported that they are ready.

    Args:
        launcher: starts the processes.
        tasks: `module:function` and its arguments. A function that returns text has failed; the text is the reason.
        environment: environment of the processes.
        gate: file to create.

    Returns:
        The values that the tasks returned, in the order in which they ended.

    Raises:
        MeasurementError: a task failed.
    """
    ready: set[str] = set()
    results: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (function, arguments) in enumerate(tasks):
            launcher.start(str(number), function, arguments, environment, Path(folder) / str(number))
        while len(results) < len(tasks):
            for event in launcher.events(timeout=1.0):
                if isinstance(event, Progress):
                    ready.add(event.task)
                    if gate and len(ready) == len(tasks):
                        gate.touch()
                elif isinstance(event.value, str):
                    raise MeasurementError(event.value)
                elif not isinstance(event.value, Exception):
                    results.append(event.value)
                else:
                    last = tail(Path(folder) / event.task, lines=1)
                    raise MeasurementError(f"the process ended: {event.value}{f' ({last})' if last else ''}")
    return results
