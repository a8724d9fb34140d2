"""Carries out the runs of an experiment: on this machine, or by workers on a cluster that the command watches."""

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from replicate import plugins
from replicate.data.folder import check_folder
from replicate.data.validation import check_number
from replicate.live.screen import StatusView, display_for
from replicate.live.state import Observation
from replicate.logging_options import Logging, resolved
from replicate.matrix.clusters import RayCluster, SlurmCluster, Work
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher, stoppable
from replicate.matrix.plan import Selected, TimeUpError, check_shares, check_step, survey, unfinished, unfinished_runs
from replicate.matrix.resources import Deadline, Slot, make_slots, may_have_gpu
from replicate.matrix.scheduler import MatrixSummary, Scheduler
from replicate.matrix.submit import Workers
from replicate.matrix.task import PRELOAD
from replicate.options import MAX_WORKERS, Options, Resources
from replicate.run import Run
from replicate.store.files import prepare_output_folder
from replicate.store.lease import remove_expired
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect


@dataclass(frozen=True, slots=True)
class Request:
    """The runs to carry out, and where and how. It travels to the workers of a cluster."""

    selected: Selected
    resources: Resources
    options: Options

    def slots(self, gpus: int) -> list[Slot]:
        """Make the slots of this machine, where torch sees so many GPUs.

        Raises:
            UsageError: the options do not fit the machine.
        """
        resources, visible = self.resources, os.environ.get("CUDA_VISIBLE_DEVICES")
        each = (resources.per_device, resources.threads_per_run)
        slots = make_slots(resources.devices, *each, gpus, visible, resources.devices_per_run)
        resources.check_step(slot.device for slot in slots)
        return slots


def carry_out(
    selected: Selected,
    data_dir: Path,
    resources: Resources,
    logging: Logging,
    check: Callable[[Mapping[str, str]], None] = lambda fingerprints: None,
    quiet: bool = False,
) -> int:
    """Carry out the runs that have no finished record.

    Args:
        selected: the runs, their experiment and the output folder.
        data_dir: folder of the data sets.
        resources: where and how to carry them out.
        logging: where the runs are logged while they train.
        check: called with the fingerprints of the data, by name, before anything starts.
        quiet: whether to print only how many runs are done at the end.

    Returns:
        The exit code, see MatrixSummary.

    Raises:
        UsageError: the resources do not fit the machine, the data or the runs.
    """
    options = Options(
        out=selected.out.resolve(),
        data_dir=data_dir.resolve(),
        threads=resources.threads_per_run,
        devices_per_run=resources.devices_per_run,
        logging=resolved(logging),
        experiment=selected.experiment.name,
        checkpoint_seconds=resources.checkpoint_seconds,
        step=resources.step,
        deterministic=resources.deterministic,
        save_probabilities=resources.save_probabilities,
        plugins=plugins.registered(),
    )
    request = Request(selected, resources, options)
    runs, deadline, console = selected.runs, Deadline(resources.seconds), Console(quiet=quiet)
    todo = unfinished(runs, collect(options.out, runs).results)
    _check_without_torch(request, todo)
    if todo:  # a folder whose runs are all done need not be writable
        prepare_output_folder(options.out, [run.run_id for run in runs])
    cluster = _connect(resources, options.out)
    summary = MatrixSummary(errors=0, unfinished=len(todo))
    with (
        contextlib.suppress(TimeUpError),
        LocalLauncher(PRELOAD) as launcher,
        display_for(console, selected.experiment, runs, options.out) as display,
    ):
        found = survey(launcher, runs, options.data_dir, display, deadline)
        check(found.fingerprints)
        slots = [] if cluster else request.slots(found.gpus)
        todo = unfinished_runs(options.out, runs, found.fingerprints, display)
        check_shares(todo, found.test_images, resources.devices_per_run)
        for run in todo:
            check_number(run.validation, found.train_images[run.dataset])
        if cluster is None:
            scheduler = Scheduler(launcher, slots, options, display, retries=resources.retries, deadline=deadline)
            summary = scheduler.run(runs, todo)
    if cluster is not None:
        summary = _watch_workers(request, cluster, len(todo), deadline, console)
    done = len(runs) - summary.unfinished
    finished = f"{done} of {len(runs)} run{'s' * (len(runs) != 1)} {'is' if done == 1 else 'are'} done"
    print(f"{finished}, {summary.errors} with an error; records: {selected.out}/runs")
    return summary.exit_code


def work(request: Request, needs_gpu: bool, retried: Mapping[str, Result], seconds: float) -> MatrixSummary:
    """Do the work of one worker of a cluster: carry out runs that no other worker holds until none is left.

    Args:
        request: as made by the command in front.
        needs_gpu: whether the worker has asked for GPUs, so that it must not train on the CPU.
        retried: see `matrix.plan.unfinished`.
        seconds: the time limit.
    """
    options, runs, deadline = request.options, request.selected.runs, Deadline(seconds)
    plugins.register(options.plugins)
    with LocalLauncher(PRELOAD) as launcher, Display(Console()) as display:
        found = survey(launcher, runs, options.data_dir, display, Deadline())
        if needs_gpu and not found.gpus:
            raise RuntimeError(f"torch finds no GPU on {socket.gethostname()}, although the worker asked for one")
        slots = request.slots(found.gpus)
        todo = unfinished_runs(options.out, runs, found.fingerprints, display, retried)
        retries = request.resources.retries
        scheduler = Scheduler(launcher, slots, options, display, retries=retries, deadline=deadline, wait=False)
        return scheduler.run(runs, todo)


def _check_without_torch(request: Request, todo: Sequence[Run]) -> None:
    """Refuse at once what can be known without torch, which takes seconds to load.

    Raises:
        UsageError: as `carry_out`.
    """
    if request.resources.launcher == "local" and not may_have_gpu():
        request.slots(gpus=0)
    check_shares(todo, {}, request.resources.devices_per_run)
    check_step(todo, request.resources.step)
    for run in todo:
        if run.plugin is not None:
            plugins.require(run.init, run.plugin)
    for name in {run.dataset for run in todo if run.dataset.startswith("folder:")}:
        check_folder(request.options.data_dir / name.removeprefix("folder:"))


def _connect(resources: Resources, out: Path) -> SlurmCluster | RayCluster | None:
    """Connect to the cluster that the resources name; None: the runs are for this machine."""
    cores = (resources.per_device or 1) * resources.devices_per_run * resources.threads_per_run
    if resources.launcher == "slurm":
        return SlurmCluster(out / "slurm", resources.slurm, cores)
    return RayCluster(resources.ray, cores, resources.devices_per_run) if resources.launcher == "ray" else None


def _watch_workers(
    request: Request, cluster: SlurmCluster | RayCluster, todo: int, deadline: Deadline, console: Console
) -> MatrixSummary:
    """Submit workers for `todo` runs, and show the state of the runs until none is left or a signal comes."""
    resources, selected, out = request.resources, request.selected, request.options.out
    retried = {name: result for name, result in collect(out, selected.runs).results.items() if not result.final}
    # A node may show a worker more cores and GPUs than it was given, so the worker gets numbers.
    needs_gpu = resources.devices == "auto" and cluster.device == "cuda"
    devices = "cpu" if resources.devices == "auto" and not needs_gpu else resources.devices
    each = resources.per_device or 1
    there = replace(request, resources=replace(resources, per_device=each, devices=devices))
    count, note = resources.workers or min(MAX_WORKERS, -(-todo // each)), Display(console).note

    def make_work(seconds: float) -> Work:
        return partial(work, there, needs_gpu, retried, seconds)

    workers = Workers(cluster, make_work, count, resources.retries, deadline, note)

    noted: set[str] = set()

    def tend(seen: Observation) -> bool:
        for run_id, lease in seen.expired.items():
            # Otherwise each worker would have to watch the lease for two minutes.
            kept = remove_expired(RunFolder(out / "runs" / run_id), lease) if lease.expired else lease
            if kept is not None and run_id not in noted:
                noted.add(run_id)
                note(f"{run_id} cannot be carried out: {kept.problem}")
        if stopped():
            note("stopping: the workers' runs save checkpoints; the same command resumes them")
            return False
        left = unfinished(selected.runs, seen.results, retried)
        held = sum(run.run_id in seen.progress for run in left)
        return workers.tend(len(left) - held, held)

    with stoppable() as stopped:
        try:
            if todo:
                StatusView(selected.experiment, selected.runs, out, console).watch(tend)
        finally:
            cluster.stop()
    return sum_up(selected.runs, out, retried)


def sum_up(runs: Sequence[Run], out: Path, retried: Mapping[str, Result]) -> MatrixSummary:
    """Sum up runs by their records. A run in `retried` that still has the same record is unfinished."""
    results = collect(out, runs).results
    left = len(unfinished(runs, results, retried))
    return MatrixSummary(len(runs) - left - sum(result.final for result in results.values()), left)
