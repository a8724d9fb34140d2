"""A run made ready to train: the only place where nets, initialisations and data meet."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset
from replicate.data.preprocess import PREPROCESSINGS
from replicate.init import initialize_
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import PLANS, build
from replicate.run import Run
from replicate.training.layers import snapshot_iterations
from replicate.training.module import Classifier
from replicate.training.steps import Steps
from replicate.training.streams import stream, stream_seed
from replicate.training.team import Alone

# Iterations that Lightning gives at a time: enough to hide its own work on a GPU, few enough to show progress on a CPU.
CHUNK = {"cpu": 4, "cuda": 64, "mps": 64}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to train."""

    model: Classifier
    data: DeviceData
    init: list[dict[str, Any]]


def prepare(
    run: Run,
    device: str,
    dataset: Dataset,
    init: list[dict[str, Any]] | None = None,
    team: Alone | None = None,
    steps: Steps | None = None,
) -> Prepared:
    """Preprocess the data, build the net and initialise it.

    Args:
        run: what to train.
        device: `cpu`, `cuda` or `mps`.
        dataset: as loaded for `run.dataset`.
        init: report of an earlier initialisation, whose weights will be put in place of these: none is done.
        team: the processes that train the run; None: this one alone.
        steps: makes the iterations; None: one operation after another.
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
        stops=snapshot_iterations(run.iterations),
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
        steps=steps,
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
