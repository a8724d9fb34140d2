"""The command line of the benchmark: choose what to measure, and write a page and a JSON file."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from script import make_app, make_folder, run_app

from bench.compare import ACTIVATIONS, PATHS, MeasurementError, Plan, compare
from bench.page import Page
from bench.scheduler import queue_cost
from replicate.errors import UsageError, unknown
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import survey
from replicate.matrix.resources import Deadline, make_slots
from replicate.matrix.task import PRELOAD
from replicate.names import ACTIVATIONS as ALL_ACTIVATIONS
from replicate.options import Options, Resources
from replicate.run import Run
from replicate.store.files import escape_control_chars, write_atomically

app = make_app("bench", "Compare the speed of training with a plain Lightning loop; write OUT/<device>.md and .json.")
Count = Annotated[int, Parameter(validator=Number(gte=1))]


@app.default
def bench(
    *,
    out: Path = Path("results/bench"),
    devices: str = "auto",
    width: float | None = None,
    precision: str | None = None,
    paths: str | None = None,
    activations: str | None = None,
    profile: Path | None = None,
    at_once: str = "1,2,4",
    windows: Count = 5,
    seconds: float = 5.0,
) -> int:
    """Measure on the first device. The scheduler's cost is measured only if everything else is.

    Args:
        out: Output folder.
        devices: auto (a GPU, else the CPU), cpu, or a GPU's number.
        width: Width of the net (default: 1 on a GPU, 0.25 on the CPU).
        precision: Precision of training (default: bf16-mixed on a GPU, 32-true on the CPU).
        paths: Only these training loops, such as baseline,eager; on a GPU also graph and compiled (default: all).
        activations: Activations of the net (default: relu,maxout).
        profile: File for a table of the kernels of a few iterations.
        at_once: Numbers of simultaneous runs.
        windows: Number of time windows.
        seconds: Seconds of each window.
    """
    for activation in _words(activations):
        if activation not in ALL_ACTIVATIONS:
            raise unknown("activation", activation, ALL_ACTIVATIONS)
    if profile and not profile.parent.is_dir():
        raise UsageError(f"--profile {profile}: there is no folder {profile.parent}; make it")
    counts = _numbers(at_once)
    Resources(devices=devices)  # refuses what is no device
    make_folder(out)
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console()) as display:
        gpus = survey(launcher, [], Path(), display, Deadline()).gpus
        slot = make_slots(devices, 1, 1, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        small = slot.device == "cpu"
        run = Run(
            "lsuv",
            "relu",
            width=width or (0.25 if small else 1.0),
            precision=precision or ("32-true" if small else "bf16-mixed"),
        )
        plan = Plan(
            run=run,
            options=Options(out, device=slot.device),
            environment={**os.environ, **slot.environment},
            paths=_paths(_words(paths), slot.device),
            activations=_words(activations) or ACTIVATIONS,
            at_once=counts,
            windows=windows,
            seconds=seconds,
            profiled=profile is not None,
        )
        ceiling, device, rows = compare(launcher, plan, display)
        queue = [] if paths or activations else queue_cost(launcher, (1, 200))
    command = shlex.join(["python", "experiments/bench", *sys.argv[1:]])
    page = Page(device, command, plan, ceiling, rows, queue)
    if profile:
        write_atomically(profile, page.profile())
    name = "-".join(device.split())
    write_atomically(out / f"{name}.json", page.json())
    path = write_atomically(out / f"{name}.md", page.markdown())
    print(f"{page.markdown()}\nwrote {path}")
    return 0


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise UsageError(f"--at-once {text} is not a list of numbers such as 1,2,4")
    return numbers


def _paths(chosen: Sequence[str], device: str) -> Sequence[str]:
    """The paths to measure: the chosen ones, or all that the device has."""
    for path in chosen:
        if path not in PATHS[device]:
            raise unknown(f"path on {device}", path, PATHS[device])
    return chosen or PATHS[device]


def main(words: Sequence[str] | None = None) -> int:
    """Carry out a command line.

    Args:
        words: words after the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 1 a measurement failed, 2 wrong usage, 3 stopped.
    """
    try:
        return run_app(app, words)
    except MeasurementError as error:
        return _end(f"a measurement failed: {error}", 1)
    except OSError as error:
        if error.filename is None:
            raise
        return _end(f"cannot write {error.filename}: {error.strerror}; give another --out or --profile", 2)
    except KeyboardInterrupt:
        return _end("stopped", 3)


def _end(sentence: str, code: int) -> int:
    print(f"bench: {escape_control_chars(sentence)}", file=sys.stderr)
    return code
