"""Train one run, from plain data to its record."""

import math
import time
import traceback
from datetime import UTC, datetime
from typing import Any

from replicate.data.dataset import Dataset
from replicate.data.sources import load
from replicate.options import Options
from replicate.passing import passing
from replicate.run import Run
from replicate.store.layers import from_plain
from replicate.store.lease import Lease
from replicate.store.result import Result
from replicate.store.run_folder import CHECKPOINT
from replicate.training import checkpoint
from replicate.training.curve import Curve, Progress
from replicate.training.digest import weights_sha256
from replicate.training.environment import configure, here
from replicate.training.graph import steps_for
from replicate.training.layers import Layers
from replicate.training.module import DivergedError
from replicate.training.parallel import team as team_of
from replicate.training.prepare import prepare
from replicate.training.steps import Steps
from replicate.training.stopping import StoppedError
from replicate.training.streams import stream
from replicate.training.team import Alone
from replicate.training.trainer import make_trainer
from replicate.training.wandb import Mirror


def train_run(run: Run, options: Options, lease: Lease, progress: Progress | None = None) -> Result | None:
    """Train one run and write its files.

    Meant for a process of its own: it sets torch's threads, seeds and flags, and Lightning leaves some of its own.

    Args:
        run: what to train.
        options: where and how.
        lease: of the run, which this process holds.
        progress: called about twice a second with the iteration and the latest test accuracy in %.

    Returns:
        The record as written. A run that fails is a record too, with status `error` and its traceback. None if a signal
        stopped the run: the next call goes on from its checkpoint.

    Raises:
        OSError: the record cannot be written.
    """
    begin = time.perf_counter()
    record: dict[str, Any] = {
        "status": "error",
        "test_accuracy": None,
        "train_loss": None,
        "iteration": 0,
        "init": [],
        "images_per_second": None,
        "data_label": run.dataset,
        "fingerprint": "unknown",
        "error": None,
        "classes": None,
        "test_images": None,
        "weights_sha256": None,
        "parts": None,
    }
    earlier, mirror = 0.0, None
    steps = steps_for(options.step, options.device, options.devices_per_run)
    try:
        configure(options)
        dataset = load(run.dataset, options.data_dir)
        record |= {
            "data_label": dataset.label,
            "fingerprint": dataset.fingerprint,
            "classes": len(dataset.classes),
            "test_images": len(dataset.test_labels),
        }
        state = checkpoint.load(lease, identity_of(run, dataset), options.device)
        earlier = state["seconds"] if state else 0.0
        mirror = Mirror(run, options, dataset.fingerprint, lease.folder.path)
        curve = Curve(lease, len(dataset.train_labels), run.batch_size, progress, mirror.log)
        with team_of(run, options, resume=state is not None) as team:
            _train(run, options, lease, dataset, curve, mirror, record, state, team, steps)
    except StoppedError:
        if mirror:
            mirror.finish({"status": "stopped"})
        return None
    except Exception as error:
        record |= {"status": "error", "error": traceback.format_exc(), "passing": passing(error)}
    result = Result(
        run=run,
        **{**record, **here(options, steps.name), "seconds": earlier + time.perf_counter() - begin},
        options=options.plain(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        history=list(options.history),
    )
    lease.write_result(result)  # before anything else can go wrong
    if mirror:
        kept = ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second")
        mirror.finish({key: getattr(result, key) for key in kept})
    if result.status != "error":
        lease.remove(CHECKPOINT)
    return result


def identity_of(run: Run, dataset: Dataset) -> str:
    """Name a run on its data, for its checkpoints."""
    return f"{run.run_id} {dataset.fingerprint}"


def _train(
    run: Run,
    options: Options,
    lease: Lease,
    dataset: Dataset,
    curve: Curve,
    mirror: Mirror,
    record: dict[str, Any],
    state: dict[str, Any] | None,
    team: Alone,
    steps: Steps,
) -> None:
    """Prepare and train, from a checkpoint's state if there is one; what is known at any moment is in the record."""
    ready = prepare(run, options.device, dataset, init=state["init"] if state else None, team=team, steps=steps)
    model, data = ready.model, ready.data
    record["init"] = ready.init
    parts = checkpoint.parts(state, here(options, steps.name))
    record["parts"] = parts if len(parts) > 1 else None
    seconds = state["seconds"] if state else 0.0
    # All inits and activations of a seed are measured on the same images, and see them first in training.
    batch = data.first_batch(stream(run.seed, "batches"))
    layers = Layers(lease, run.run_id, dataset.fingerprint, batch, data.stops, curve, mirror.snapshot)
    if state:
        checkpoint.take_up(state, model, data)
        curve.take_up(state["rows"], state["training_seconds"])
        layers.take_up(from_plain(state.get("layers", [])))  # none in a checkpoint from before there were measurements
    mirror.begin(ready.init, curve.rows, layers.snapshots)
    checkpoints = checkpoint.Checkpoints(
        lease,
        identity_of(run, dataset),
        data,
        curve,
        layers,
        options.checkpoint_seconds,
        ready.init,
        parts,
        seconds,
        state,
        team,
    )
    trainer = make_trainer(run, options, data, [layers, curve, checkpoints], team)
    try:
        trainer.fit(model, datamodule=data)
    except DivergedError:
        record |= {"status": "diverged", "iteration": model.iteration}
        return
    last = curve.rows[-1]
    chance = 100 / len(dataset.classes)
    record |= {
        "status": "converged" if last["test_accuracy"] > 1.5 * chance else "not_converged",
        "test_accuracy": last["test_accuracy"],
        "train_loss": last["train_loss"] if math.isfinite(last["train_loss"]) else None,
        "iteration": model.iteration,
        "images_per_second": run.iterations * run.batch_size / curve.training_seconds,
        "weights_sha256": weights_sha256(model.net),
    }
