"""The command line of the benchmark: choose what is measured, and write a page and a file for other programs."""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.compare import ACTIVATIONS, PATHS, MeasurementError, Plan, compare
from bench.page import Page
from bench.scheduler import queue_cost
from replicate.errors import UsageError, unknown
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import survey
from replicate.matrix.slots import make_slots
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import ACTIVATIONS as ALL_ACTIVATIONS
from replicate.run import Run
from replicate.store.files import escape_control_chars, write_atomically


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""

    def number(text: str) -> int:
        if int(text) < 1:
            raise ValueError
        return int(text)

    def numbers(text: str) -> list[int]:
        return [number(word) for word in text.split(",")]

    def words(text: str) -> list[str]:
        return text.split(",")

    text = "Measure the speed of training next to a plain Lightning loop; write OUT/<device>.md and .json."
    parser = argparse.ArgumentParser(prog="bench", description=text, allow_abbrev=False)
    add = parser.add_argument
    add("--out", type=Path, default=Path("results/bench"), metavar="DIR", help="folder (results/bench)")
    add("--devices", default="auto", help="auto (a GPU, else the CPU), cpu, or a GPU's number (auto)")
    add("--width", type=float, help="width of the net (1 on a GPU, 0.25 on the CPU)")
    add("--precision", help="precision of training (bf16-mixed on a GPU, 32-true on the CPU)")
    text = "only these ways to make an iteration: baseline, eager; on a GPU graph and compiled too (all)"
    add("--paths", type=words, metavar="NAME,NAME", help=text)
    add("--activations", type=words, metavar="NAME,NAME", help="activations of the net (relu,maxout)")
    text = "write a table of the kernels of a few iterations to this file"
    add("--profile", type=Path, metavar="FILE", help=text)
    add("--at-once", type=numbers, default=[1, 2, 4], metavar="N,N", help="runs at once (1,2,4)")
    add("--windows", type=number, default=5, metavar="N", help="windows measured (5)")
    add("--seconds", type=float, default=5.0, metavar="S", help="length of a window (5)")
    return parser


def main(words: Sequence[str]) -> int:
    """Carry out a command line.

    Returns:
        The exit code: 0 done, 1 a measurement failed, 2 wrong usage, 3 stopped.
    """
    args = make_parser().parse_args(words)
    try:
        path = run(args, shlex.join(["python", "experiments/bench", *words]))
    except MeasurementError as error:
        return _end(f"a measurement failed: {error}", 1)
    except UsageError as error:
        return _end(str(error), 2)
    except OSError as error:
        if error.filename is None:
            raise
        return _end(f"cannot write {error.filename}: {error.strerror}; give another --out or --profile", 2)
    except KeyboardInterrupt:
        return _end("stopped", 3)
    print(path.read_text())
    print(f"wrote {path}")
    return 0


def _end(sentence: str, code: int) -> int:
    print(f"bench: {escape_control_chars(sentence)}", file=sys.stderr)
    return code


def run(args: argparse.Namespace, command: str) -> Path:
    """Measure on the first device, and return the page that was written.

    The scheduler's cost is measured only along with everything else.

    Args:
        args: of the command line.
        command: the command line, for the page.

    Raises:
        UsageError: an unknown device, path or activation.
        MeasurementError: a measurement failed; nothing has been written.
        OSError: a file cannot be written.
    """
    activations = args.activations or ACTIVATIONS
    for activation in activations:
        if activation not in ALL_ACTIVATIONS:
            raise unknown("activation", activation, ALL_ACTIVATIONS)
    if args.profile and not args.profile.parent.is_dir():
        raise UsageError(f"--profile {args.profile}: there is no folder {args.profile.parent}; make it")
    args.out.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=args.out).close()  # if that fails, nothing has been measured in vain
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console()) as display:
        gpus = survey(launcher, [], Path(), display).gpus
        slot = make_slots(args.devices, 1, 1, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        small = slot.device == "cpu"
        width = args.width or (0.25 if small else 1.0)
        precision = args.precision or ("32-true" if small else "bf16-mixed")
        plan = Plan(
            run=Run("lsuv", "relu", width=width, precision=precision),
            options=Options(args.out, device=slot.device),
            environment={**os.environ, **slot.environment},
            paths=_paths(args.paths, slot.device),
            activations=activations,
            at_once=args.at_once,
            windows=args.windows,
            seconds=args.seconds,
            profiled=args.profile is not None,
        )
        ceiling, device, rows = compare(launcher, plan, display)
        queue = [] if args.paths or args.activations else queue_cost(launcher, (1, 200))
    page = Page(device, command, plan, ceiling, rows, queue)
    if args.profile:
        write_atomically(args.profile, page.profile())
    name = "-".join(device.split())
    write_atomically(args.out / f"{name}.json", page.json())
    return write_atomically(args.out / f"{name}.md", page.markdown())


def _paths(chosen: Sequence[str] | None, device: str) -> Sequence[str]:
    """The paths to measure: those chosen, or all that the device has."""
    if device not in PATHS:
        raise UsageError(f"{device} is not measured; give --devices cpu or a GPU's number")
    for path in chosen or ():
        if path not in PATHS[device]:
            raise unknown(f"path on {device}", path, PATHS[device])
    return chosen or PATHS[device]
