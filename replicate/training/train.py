"""Train one run: the only place where nets, initialisations and data meet."""

import math
import time
import traceback
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import nn

from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset
from replicate.data.preprocess import PREPROCESSINGS
from replicate.data.sources import load
from replicate.init import initialize_
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import PLANS, build
from replicate.options import Options
from replicate.passing import passing
from replicate.results import Result
from replicate.run import Run
from replicate.training import checkpoint
from replicate.training.curve import Curve, Progress
from replicate.training.digest import weights_sha256
from replicate.training.environment import configure, here
from replicate.training.layers import FILE as LAYERS
from replicate.training.layers import Layers, moments_of
from replicate.training.module import Classifier, DivergedError
from replicate.training.parallel import team as team_of
from replicate.training.stopping import StoppedError
from replicate.training.streams import stream, stream_seed
from replicate.training.team import Alone
from replicate.training.trainer import make_trainer
from replicate.training.wandb import Mirror

# Iterations that Lightning gives at a time: enough to hide its own work on a GPU, few enough to show progress on a CPU.
CHUNK = {"cpu": 4, "cuda": 64}


def train_run(run: Run, options: Options, progress: Progress | None = None) -> Result | None:
    """Train one run and write its `curve.csv` and `result.json` to `options.out/runs/<run_id>/`.

    Meant for a process of its own: it sets torch's threads, seeds and flags, and Lightning leaves some of its own.

    Args:
        run: what to train.
        options: where and how.
        progress: called about twice a second with the iteration and the latest test accuracy in %.

    Returns:
        The record as written. A run that fails is a record too, with status `error` and its traceback. None if a signal
        stopped the run: the next call goes on from its checkpoint.

    Raises:
        OSError: the record cannot be written.
    """
    begin = time.perf_counter()
    folder = options.out / "runs" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
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
    try:
        configure(options)
        dataset = load(run.dataset, options.data_dir)
        record |= {
            "data_label": dataset.label,
            "fingerprint": dataset.fingerprint,
            "classes": len(dataset.classes),
            "test_images": len(dataset.test_labels),
        }
        state = checkpoint.load(folder, identity_of(run, dataset), options.device)
        earlier = state["seconds"] if state else 0.0
        mirror = Mirror(run, options, dataset.fingerprint, folder)
        curve = Curve(
            folder / "curve.csv", len(dataset.train_labels), run.batch_size, progress, mirror.log, options.scratch
        )
        with team_of(run, options, resume=state is not None) as team:
            _train(run, options, dataset, curve, mirror, record, state, team)
    except StoppedError:
        if mirror:
            mirror.finish({"status": "stopped"})
        return None
    except Exception as error:
        record |= {"status": "error", "error": traceback.format_exc(), "passing": passing(error)}
    result = Result(
        run=run,
        **{**record, **here(options), "seconds": earlier + time.perf_counter() - begin},
        options=options.plain(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        history=[dict(entry) for entry in options.history],
    )
    result.write(folder, options.scratch)  # before anything else can go wrong
    if mirror:
        kept = ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second")
        mirror.finish({key: getattr(result, key) for key in kept})
    if result.status != "error":
        (folder / checkpoint.FILE).unlink(missing_ok=True)
    return result


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to train."""

    model: Classifier
    data: DeviceData
    init: list[dict[str, Any]]


def identity_of(run: Run, dataset: Dataset) -> str:
    """Name a run on its data, for its checkpoints."""
    return f"{run.run_id} {dataset.fingerprint}"


def prepare(
    run: Run, device: str, dataset: Dataset, init: list[dict[str, Any]] | None = None, team: Alone | None = None
) -> Prepared:
    """Preprocess the data, build the net and initialise it.

    Args:
        run: what to train.
        device: `cpu` or `cuda`.
        dataset: as loaded for `run.dataset`.
        init: report of an earlier initialisation, whose weights will be put in place of these: none is done.
        team: the processes that train the run; None: this one alone.
    """
    train_images, test_images = PREPROCESSINGS[run.preprocessing](dataset.train_images, dataset.test_images)
    data = DeviceData(
        train_images,
        torch.tensor(dataset.train_labels),
        test_images,
        torch.tensor(dataset.test_labels),
        batch_size=run.batch_size,
        iterations=run.iterations,
        pad=run.pad,
        mirror=run.mirror,
        generator=stream(run.seed, "batches"),
        device=device,
        chunk=CHUNK[device],
        stops=moments_of(run.iterations),
    )
    activation = ACTIVATIONS[run.activation]
    net = build(PLANS[run.model], activation, width=run.width, dropout=run.dropout, classes=len(dataset.classes))
    net.to(device)
    net.to(memory_format=torch.channels_last)  # faster convolutions, on a CPU as well
    if init is None:
        init = _initialize(run, net, data, activation.negative_slope)
    model = Classifier(
        net,
        lr=run.lr,
        momentum=run.momentum,
        weight_decay=run.weight_decay,
        milestones=run.milestones,
        lr_factor=run.lr_factor,
        clip_norm=run.clip_norm,
        team=team,
    )
    if team and team.size > 1:
        data.share(team.rank, team.size)
    return Prepared(model, data, init)


def _initialize(run: Run, net: nn.Module, data: DeviceData, negative_slope: float) -> list[dict[str, Any]]:
    torch.manual_seed(stream_seed(run.seed, "dropout"))  # for LSUV; training seeds it anew
    reports = initialize_(
        net,
        run.init,
        data.training_batches(stream(run.seed, "lsuv"), run.lsuv_batch_size),
        generator=stream(run.seed, "init"),
        negative_slope=negative_slope,
        tol=run.lsuv_tol,
        max_iter=run.lsuv_max_iter,
        dropout=run.lsuv_dropout,
    )
    torch.manual_seed(stream_seed(run.seed, "dropout"))
    return [asdict(report) for report in reports]


def _train(
    run: Run,
    options: Options,
    dataset: Dataset,
    curve: Curve,
    mirror: Mirror,
    record: dict[str, Any],
    state: dict[str, Any] | None,
    team: Alone,
) -> None:
    """Prepare and train, from a checkpoint's state if there is one; what is known at any moment is in the record."""
    ready = prepare(run, options.device, dataset, init=state["init"] if state else None, team=team)
    model, data = ready.model, ready.data
    record["init"] = ready.init
    parts = checkpoint.parts(state, here(options))
    record["parts"] = parts if len(parts) > 1 else None
    folder, seconds = options.out / "runs" / run.run_id, state["seconds"] if state else 0.0
    # All inits and activations of a seed are measured on the same images, and see them first in training.
    batch = data.first_batch(stream(run.seed, "batches"))
    layers = Layers(
        folder / LAYERS, run.run_id, dataset.fingerprint, batch, data.stops, curve, mirror.moment, options.scratch
    )
    if state:
        checkpoint.take_up(state, model, data)
        curve.take_up(state["rows"], state["training_seconds"])
        layers.take_up(state.get("layers", []))  # none in a checkpoint from before there were measurements
    mirror.begin(ready.init, curve.rows, layers.moments)
    checkpoints = checkpoint.Checkpoints(
        folder,
        identity_of(run, dataset),
        data,
        curve,
        layers,
        options.checkpoint_seconds,
        ready.init,
        parts,
        seconds,
        state,
        options.scratch,
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
