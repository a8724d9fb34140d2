"""Carries out the runs of an experiment: on this machine, or by workers on a cluster that the command watches."""

import argparse
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from replicate.arguments import LAUNCHERS
from replicate.errors import UsageError, unknown
from replicate.experiment import Experiment
from replicate.live.look import Seen
from replicate.live.screen import display_for
from replicate.live.watch import View, watch
from replicate.matrix.display import Display
from replicate.matrix.limit import Limit
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import Survey, check_shares, is_left, left_to_do, survey
from replicate.matrix.ray import RayCluster
from replicate.matrix.scheduler import Outcome, run_all
from replicate.matrix.signals import stoppable
from replicate.matrix.slots import Slot, check_request, make_slots
from replicate.matrix.slurm import SlurmCluster
from replicate.matrix.submit import MAX_WORKERS, Workers
from replicate.matrix.task import PRELOAD
from replicate.options import STEPS, Options, check_step, wandb_mode
from replicate.run import Run
from replicate.store.files import make_writable, refuse_links
from replicate.store.lease import release
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect


@dataclass(frozen=True, slots=True)
class Request:
    """The runs that were asked for, and where and how to carry them out. It travels to the workers of a cluster."""

    experiment: Experiment
    runs: tuple[Run, ...]
    options: Options
    args: argparse.Namespace

    def records(self) -> Mapping[str, Result]:
        """The records of the runs, by run_id."""
        return collect(self.options.out, self.runs).results

    def slots(self, found: Survey) -> list[Slot]:
        """Make the slots of this machine."""
        args, visible = self.args, os.environ.get("CUDA_VISIBLE_DEVICES")
        each = (args.per_device, args.threads_per_run)
        slots = make_slots(args.devices, *each, found.gpus, visible, args.devices_per_run, found.mps)
        check_step(args.step, {slot.device for slot in slots}, args.devices_per_run)
        return slots


def carry_out(
    experiment: Experiment,
    runs: tuple[Run, ...],
    out: Path,
    args: argparse.Namespace,
    check: Callable[[Mapping[str, str]], None],
) -> int:
    """Carry out the runs that have no finished record.

    Args:
        experiment: that they are of.
        runs: that were asked for.
        out: the output folder.
        args: of the command line, see `arguments.add_resources`.
        check: is called with the fingerprints of the data at hand, by name, before anything starts.

    Returns:
        The exit code, see Outcome.

    Raises:
        UsageError: what was asked for cannot be done.
    """
    request = Request(experiment, runs, _options(experiment, out, args), args)
    options, limit, console = request.options, Limit(args.time_limit), Console()
    records = request.records()
    if any(is_left(records.get(run.run_id)) for run in runs):  # a folder in which all is done need not be written
        make_writable(options.out)
        refuse_links(options.out, [run.run_id for run in runs])
    cluster = _connect(args, options.out)
    with LocalLauncher(PRELOAD) as launcher, display_for(console, experiment, runs, options.out) as display:
        found = survey(launcher, runs, options.data_dir, display)
        check(found.fingerprints)
        slots = [] if cluster else request.slots(found)
        todo = left_to_do(options.out, runs, found.fingerprints, display)
        check_shares(todo, found.test_images, args.devices_per_run)
        if cluster is None:
            outcome = run_all(launcher, runs, todo, slots, options, display, retries=args.retries, limit=limit)
    if cluster is not None:
        outcome = _watch_workers(request, cluster, len(todo), limit, console)
    print(f"{len(runs) - outcome.left} of {len(runs)} runs are done, {outcome.errors} with an error")
    print(f"records: {out}/runs")
    return outcome.exit_code


def work(request: Request, needs_gpu: bool, retried: Mapping[str, Result], seconds: float) -> Outcome:
    """Do the work of one worker of a cluster: carry out runs that nobody holds until none is left.

    Args:
        request: as made by the command in front.
        needs_gpu: whether the worker has asked for GPUs, so that it must not train on the CPU.
        retried: see `matrix.plan.is_left`.
        seconds: the time limit.
    """
    options, limit = request.options, Limit(seconds)
    with LocalLauncher(PRELOAD) as launcher, Display(Console()) as display:
        found = survey(launcher, request.runs, options.data_dir, display)
        if needs_gpu and not found.gpus:
            raise RuntimeError(f"torch finds no GPU on {socket.gethostname()}, although the worker asked for one")
        slots = request.slots(found)
        todo = left_to_do(options.out, request.runs, found.fingerprints, display, retried)
        retries = request.args.retries
        return run_all(launcher, request.runs, todo, slots, options, display, retries=retries, limit=limit, wait=False)


def _options(experiment: Experiment, out: Path, args: argparse.Namespace) -> Options:
    if args.launcher not in LAUNCHERS:
        raise unknown("launcher", args.launcher, LAUNCHERS)
    if args.step not in STEPS:
        raise unknown("step", args.step, STEPS)
    check_request(args.devices, args.per_device, args.threads_per_run, args.devices_per_run)
    if args.workers is not None and args.launcher == "local":
        raise UsageError("--workers is for clusters; on this machine, --per-device says how many runs run at a time")
    if args.workers is not None and not 1 <= args.workers <= MAX_WORKERS:
        raise UsageError(f"--workers {args.workers} is out of range; give 1 to {MAX_WORKERS}")
    return Options(
        out=out.resolve(),
        data_dir=args.data_dir.resolve(),
        threads=args.threads_per_run,
        devices_per_run=args.devices_per_run,
        wandb=wandb_mode(args.wandb),
        experiment=experiment.name,
        checkpoint_seconds=args.checkpoint_seconds,
        step=args.step,
        deterministic=args.deterministic,
    )


def _connect(args: argparse.Namespace, out: Path) -> SlurmCluster | RayCluster | None:
    """Connect to the cluster that the command line names; None: this machine does the work."""
    if args.launcher == "local":
        return None
    options, each = args.cluster.get(args.launcher, {}), args.per_device or 1
    cores = each * args.devices_per_run * args.threads_per_run
    if args.launcher == "slurm":
        return SlurmCluster(out / "slurm", options, cores)
    return RayCluster(options, cores, args.devices_per_run)


def _watch_workers(
    request: Request, cluster: SlurmCluster | RayCluster, todo: int, limit: Limit, console: Console
) -> Outcome:
    """Submit workers for so many runs, and show the state of the runs until none is left or a signal comes."""
    args, options, each = request.args, request.options, request.args.per_device or 1
    retried = {name: result for name, result in request.records().items() if not result.final}
    # A node may show a worker more cores and GPUs than are its own, hence numbers in place of what it would find.
    needs_gpu = args.devices == "auto" and cluster.device == "cuda"
    devices = "cpu" if args.devices == "auto" and not needs_gpu else args.devices
    there = replace(request, args=argparse.Namespace(**{**vars(args), "per_device": each, "devices": devices}))
    display = Display(console)
    workers = Workers(
        cluster,
        lambda left: partial(work, there, needs_gpu, retried, left),
        args.workers or min(MAX_WORKERS, -(-todo // each)),
        args.retries,
        limit,
        display.note,
    )

    def tend(seen: Seen) -> bool:
        for run_id, token in seen.expired.items():
            # Else each worker would have to watch for two minutes by itself.
            release(RunFolder(options.out / "runs" / run_id), token)
        left = [run.run_id for run in request.runs if is_left(seen.results.get(run.run_id), retried)]
        held = sum(run_id in seen.progress for run_id in left)
        if stopped():
            display.note("stopping: the workers' runs save checkpoints; the same command resumes them")
            return False
        return workers.tend(len(left) - held, held)

    with stoppable() as stopped:
        try:
            if todo:
                watch(View(request.experiment, request.runs, options.out), console, tend)
        finally:
            cluster.stop()
    records = request.records()
    left = sum(is_left(records.get(run.run_id), retried) for run in request.runs)
    return Outcome(sum(not one.final and not is_left(one, retried) for one in records.values()), left)
