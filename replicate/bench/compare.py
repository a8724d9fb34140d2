"""The benchmark: the baseline and ours, side by side, alone and several at once, as a page of Markdown."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher, death, tail
from replicate.matrix.slots import Slot, cores
from replicate.options import Options
from replicate.run import Run

if TYPE_CHECKING:
    from replicate.bench.work import Work

MEASURE = "replicate.bench.measure:measure"
CEILING = "replicate.bench.measure:matmul_rate"
# On a GPU each way to make an iteration stands for itself; on a CPU there is one.
PATHS = {"cpu": ("baseline", "eager"), "cuda": ("baseline", "eager", "graph", "compiled")}
ACTIVATIONS = ("relu", "maxout")  # those of the whole benchmark
MACHINE_READABLE = (
    "path", "activation", "at_once", "iterations_per_second", "images_per_second", "startup", "peak_memory",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page: so many processes at once, their rates added up.

    Args:
        path: one of PATHS.
        activation: of the net.
        at_once: processes on the device.
        iterations_per_second: median over windows, summed over the processes.
        images_per_second: likewise.
        share: of the floating-point rate of a large matrix product, on a CPU of one on each core in use.
        peak_memory: bytes, summed over the processes.
        startup: seconds to the end of the first iteration, the slowest process.
        work: of one iteration of ours.
        kernels: table of the kernels of a few iterations in one of the processes; empty if it was not asked for.
    """

    path: str
    activation: str
    at_once: int
    iterations_per_second: float
    images_per_second: float
    share: float
    peak_memory: int
    startup: float
    work: "Work"
    kernels: str = ""

    def plain(self) -> dict[str, str | int | float]:
        """What other programs read."""
        return {name: getattr(self, name) for name in MACHINE_READABLE}


class MeasurementError(Exception):
    """A measurement failed; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Page:
    """The result of a benchmark; `queue` is empty where only some paths or activations were measured."""

    device: str
    command: str
    run: Run
    seconds: float
    windows: int
    ceiling: float
    rows: tuple[Row, ...]
    queue: tuple[tuple[int, float], ...]

    def markdown(self) -> str:
        """The page, for people."""
        commit, dirty = provenance.commit()
        versions = ", ".join(f"{name} {version}" for name, version in provenance.versions().items())
        run = self.run
        lines = [
            f"# Speed on {self.device}",
            "",
            f"- Command: `{self.command}`",
            f"- Code: {commit}{' with changes' if dirty else ''}; {versions}",
            f"- Net: {run.model}, width {run.width:g}, batches of {run.batch_size}, {run.precision}; "
            "50,000 random images",
            f"- Medians of {self.windows} windows of {self.seconds:g} s each, after a warm-up, all processes going.",
            f"- Ceiling: {self.ceiling / 1e12:.3g} TFLOP/s (on a CPU: of a core), a large matrix product.",
            "- Baseline: Lightning's automatic optimisation, a DataLoader with workers, torchvision's transforms.",
            "",
            "| net | at once | path | iterations/s | images/s | of ceiling | of baseline | peak memory | start-up |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        base = {(row.activation, row.at_once): row.iterations_per_second for row in self.rows if row.path == "baseline"}
        for row in self.rows:
            beside = base.get((row.activation, row.at_once))
            ratio = f"{row.iterations_per_second / beside:.2f} ×" if beside else "–"
            lines.append(
                f"| {row.activation} | {row.at_once} | {row.path} | {row.iterations_per_second:.4g} "
                f"| {row.images_per_second:,.0f} | {100 * row.share:.1f} % | {ratio} "
                f"| {row.peak_memory / 2**20:,.0f} MiB | {row.startup:.1f} s |"
            )
        works = {row.activation: row.work for row in self.rows if row.path != "baseline"}
        if works:
            lines += ["", "The work of one iteration of ours, counted:", ""]
        lines += [
            f"- {activation}: {work.operations / 1e9:,.3g} GFLOP "
            f"({1e3 * work.operations / self.ceiling:.3g} ms at the ceiling), "
            f"{work.traffic / 1e9:.3g} GB read and written, {work.kernels} kernels"
            for activation, work in works.items()
        ]
        if self.queue:
            lines += ["", "The scheduler's own work, processor time a run:", ""]
            lines += ["| runs in the queue | ms a run |", "|---|---|"]
        lines += [f"| {length} | {1000 * seconds:.2f} |" for length, seconds in self.queue]
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """The rows, for other programs."""
        rows = [row.plain() for row in self.rows]
        return json.dumps({"device": self.device, "command": self.command, "rows": rows}, indent=1) + "\n"

    def profile(self) -> str:
        """The tables of kernels, one below the other."""
        return "\n".join(
            f"{row.activation}, {row.at_once} at once, {row.path}: {row.kernels}" for row in self.rows if row.kernels
        )


def compare(
    launcher: LocalLauncher,
    run: Run,
    slot: Slot,
    options: Options,
    display: Display,
    *,
    paths: Sequence[str],
    activations: Sequence[str],
    at_once: Sequence[int],
    windows: int,
    seconds: float,
    profiled: bool,
) -> tuple[float, str, list[Row]]:
    """Measure every combination of path, activation and number of processes.

    Args:
        launcher: starts the processes.
        run: to be measured, whatever its activation is.
        slot: the device.
        options: of the processes, whatever their device is.
        display: shows what is being measured.
        paths: some of PATHS.
        activations: of the net.
        at_once: numbers of processes.
        windows: number of windows.
        seconds: length of a window.
        profiled: whether one process of each row records its kernels after the windows.

    Returns:
        The device's ceiling in FLOP/s, its name, and the rows.

    Raises:
        MeasurementError: a measurement failed; it says which, and names the first error.
    """
    options = replace(options, device=slot.device)
    environment = {**os.environ, **slot.environment}
    bf16 = run.precision == "bf16-mixed"
    (ceiling, name), *_ = _carry_out(launcher, [(CEILING, (options, bf16))], environment)
    rows = []
    for activation in activations:
        for count in at_once:
            for path in paths:
                name_of_row = f"{activation}, {count} at once, {path}"
                display.note(name_of_row)
                try:
                    rows.append(_row(launcher, path, replace(run, activation=activation), count, options, environment,
                                     windows=windows, seconds=seconds, profiled=profiled, ceiling=ceiling))  # fmt: skip
                except MeasurementError as error:
                    raise MeasurementError(f"{name_of_row}: {error}") from None
    return ceiling, name or provenance.cpu_name(), rows


def _row(
    launcher: LocalLauncher,
    path: str,
    run: Run,
    count: int,
    options: Options,
    environment: dict[str, str],
    *,
    windows: int,
    seconds: float,
    profiled: bool,
    ceiling: float,
) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        gate = Path(folder) / "open"
        common = (path, run, options, time.time(), gate, windows, seconds)
        tasks = [(MEASURE, (*common, profiled and number == 0)) for number in range(count)]
        speeds = _carry_out(launcher, tasks, environment, gate)
    total = sum(statistics.median(speed.rates) for speed in speeds)
    return Row(
        path=path,
        activation=run.activation,
        at_once=count,
        iterations_per_second=total,
        images_per_second=total * run.batch_size,
        share=total * speeds[0].work.operations / (ceiling * (min(count, cores()) if options.device == "cpu" else 1)),
        peak_memory=sum(speed.peak_memory for speed in speeds),
        startup=max(speed.startup for speed in speeds),
        work=speeds[0].work,
        kernels=next((speed.kernels for speed in speeds if speed.kernels), ""),
    )


def _carry_out(
    launcher: LocalLauncher, tasks: Sequence[tuple[str, tuple[Any, ...]]], environment: dict[str, str],
    gate: Path | None = None,
) -> list[Any]:  # fmt: skip
    """Carry out tasks beside each other; open the gate once each has said that it is ready."""
    ready: set[str] = set()
    results: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (function, arguments) in enumerate(tasks):
            launcher.start(str(number), function, arguments, environment, Path(folder) / str(number))
        while len(results) < len(tasks):
            for event in launcher.events(timeout=1.0):
                if event.kind == "done":
                    if isinstance(reason := getattr(event.value, "reason", None), str):
                        raise MeasurementError(reason)
                    results.append(event.value)
                elif event.kind == "progress":
                    ready.add(event.task)
                    if gate and len(ready) == len(tasks):
                        gate.touch()
                else:
                    last = tail(Path(folder) / event.task, lines=1)
                    reason = death(event.value) if event.kind == "died" else str(event.value)
                    raise MeasurementError(f"the process ended: {reason}{f' ({last})' if last else ''}")
    return results
