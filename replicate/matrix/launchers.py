"""Which launcher carries out the runs, and in which slots."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicate.errors import UsageError
from replicate.matrix import remote
from replicate.matrix.launcher import Launcher
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import Survey
from replicate.matrix.ray import RayLauncher
from replicate.matrix.slots import Slot, make_slots
from replicate.matrix.slurm import SlurmLauncher
from replicate.matrix.task import PRELOAD


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are carried out; `slots` makes the slots from the devices of this machine and the number of runs."""

    launcher: Launcher
    slots: Callable[[Survey, int], list[Slot]]


@contextmanager
def choose(args: argparse.Namespace, here: LocalLauncher, out: Path) -> Iterator[Place]:
    """Make the launcher that the command line names, and end its tasks when the context ends.

    Args:
        args: with `launcher`, `cluster` (its options, by name of the cluster), `devices`, `per_device` and
            `threads_per_run`, `devices_per_run`.
        here: the launcher of this machine.
        out: the output folder, which all machines of a cluster must share.

    Raises:
        UsageError: an option that the cluster does not have, or a cluster that is not there.
    """
    if args.launcher == "local":

        def local_slots(found: Survey, runs: int) -> list[Slot]:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            each = (args.per_device, args.threads_per_run)
            return make_slots(args.devices, *each, found.gpus, visible, args.devices_per_run, found.mps)

        yield Place(here, local_slots)
        return
    if args.devices != "auto":
        raise UsageError(f"--devices is for this machine; with --launcher {args.launcher}, ask the cluster for GPUs")
    if args.devices_per_run != 1:
        raise UsageError("--devices-per-run is for this machine; a cluster's run takes one device")
    for name, value in (("--per-device", args.per_device), ("--threads-per-run", args.threads_per_run)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value} is out of range; give 1 or more")
    with _cluster(args, out / args.launcher) as launcher:
        # Ray itself decides how many runs share a GPU, and --ray.num_gpus may say something else than --per-device.
        each = launcher.per_device if isinstance(launcher, RayLauncher) else args.per_device
        yield Place(launcher, lambda found, runs: remote.slots(launcher.device, runs, each))


def _cluster(args: argparse.Namespace, folder: Path) -> SlurmLauncher | RayLauncher:
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link, and nothing is written through one; remove it")
    options, each = args.cluster.get(args.launcher, {}), args.per_device or 1
    if args.launcher == "slurm":
        return SlurmLauncher(folder, options, PRELOAD, cores=each * args.threads_per_run)
    return RayLauncher(folder, options, PRELOAD, args.threads_per_run, each)
