"""The command `bench`: measure everything, and write one page."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from replicate.bench.compare import Page, compare
from replicate.bench.queue import queue_cost
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import survey
from replicate.matrix.slots import make_slots
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import Run
from replicate.store.files import make_writable, write_atomically


def run_bench(args: argparse.Namespace) -> Path:
    """Measure on the first device, and return the page that was written.

    Args:
        args: of the command line, see `replicate.arguments.add_bench`.

    Raises:
        UsageError: an unknown device, or an output folder that cannot be written.
    """
    options = Options(out=args.out)
    make_writable(args.out)
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console()) as display:
        found = survey(launcher, [], options.data_dir, display)
        slot = make_slots(args.devices, 1, 1, found.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        small = slot.device == "cpu"
        chosen = Run(
            "lsuv",
            "relu",
            width=args.width or (0.25 if small else 1.0),
            precision=args.precision or ("32-true" if small else "bf16-mixed"),
        )
        measured = compare(launcher, chosen, slot, options, display,
                           at_once=args.at_once, windows=args.windows, seconds=args.seconds)  # fmt: skip
        queue = queue_cost(launcher, (1, 200))
    ceiling, device, rows = measured
    command = " ".join(["replicate", *sys.argv[1:]])
    page = Page(device, command, chosen, args.seconds, args.windows, ceiling, tuple(rows), tuple(queue))
    return write_atomically(args.out / f"{'-'.join(device.split())}.md", page.markdown())
