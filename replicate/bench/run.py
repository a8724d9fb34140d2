"""The command `bench`: measure everything, or what was chosen, and write a page and a file for other programs."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from replicate.bench.compare import ACTIVATIONS, PATHS, Page, compare
from replicate.bench.queue import queue_cost
from replicate.errors import UsageError, unknown
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import survey
from replicate.matrix.slots import make_slots
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import ACTIVATIONS as ALL_ACTIVATIONS
from replicate.run import Run
from replicate.store.files import make_writable, write_atomically


def run_bench(args: argparse.Namespace) -> Path:
    """Measure on the first device, and return the page that was written.

    The scheduler's cost is measured only along with everything else.

    Args:
        args: of the command line, see `replicate.arguments.add_bench`.

    Raises:
        UsageError: an unknown device, path or activation, or a folder that cannot be written.
        MeasurementError: a measurement failed; nothing has been written.
    """
    options = Options(out=args.out)
    activations = args.activations or ACTIVATIONS
    for activation in activations:
        if activation not in ALL_ACTIVATIONS:
            raise unknown("activation", activation, ALL_ACTIVATIONS)
    if args.profile and not args.profile.parent.is_dir():
        raise UsageError(f"--profile {args.profile}: there is no folder {args.profile.parent}; make it")
    make_writable(args.out)
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console()) as display:
        found = survey(launcher, [], options.data_dir, display)
        slot = make_slots(args.devices, 1, 1, found.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        paths = _paths(args.paths, slot.device)
        small = slot.device == "cpu"
        chosen = Run(
            "lsuv",
            "relu",
            width=args.width or (0.25 if small else 1.0),
            precision=args.precision or ("32-true" if small else "bf16-mixed"),
        )
        ceiling, device, rows = compare(launcher, chosen, slot, options, display, paths=paths, activations=activations,
                                        at_once=args.at_once, windows=args.windows, seconds=args.seconds,
                                        profiled=args.profile is not None)  # fmt: skip
        queue = [] if args.paths or args.activations else queue_cost(launcher, (1, 200))
    command = " ".join(["replicate", *sys.argv[1:]])
    page = Page(device, command, chosen, args.seconds, args.windows, ceiling, tuple(rows), tuple(queue))
    if args.profile:
        write_atomically(args.profile, page.profile())
    name = "-".join(device.split())
    write_atomically(args.out / f"{name}.json", page.json())
    return write_atomically(args.out / f"{name}.md", page.markdown())


def _paths(chosen: list[str] | None, device: str) -> list[str]:
    """The paths to measure: those chosen, or all that the device has."""
    if device not in PATHS:
        raise UsageError(f"replicate bench does not measure {device}; give --devices cpu or a GPU's number")
    for path in chosen or ():
        if path not in PATHS[device]:
            raise unknown(f"path on {device}", path, PATHS[device])
    return chosen or list(PATHS[device])
