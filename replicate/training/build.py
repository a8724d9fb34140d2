"""The parts of a training: random streams, data, network and trainer. Only here do nets, inits and data meet."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor, nn

from replicate.data import synthetic
from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset
from replicate.init import initialize_
from replicate.names import ACTIVATIONS, MODELS, PREPROCESSINGS, resolve
from replicate.nn.fitnet import build
from replicate.options import Options
from replicate.plugins import function_of
from replicate.run import Run
from replicate.store.result import LayerEntry
from replicate.training.measurements import snapshot_iterations

# The fields of a layer's report that are written to the record
RECORDED = ("layer", "piece", "variance", "variance_before", "variance_after", "tries", "converged", "order", "status")
Stream = Literal["build", "init", "lsuv", "batches", "dropout"]  # numbers drawn from one never shift those of another


def stream_seed(seed: int, name: Stream, rank: int = 0) -> int:
    """Return the seed of a random stream of a run: the first 63 bits of sha256 over `seed/name` or `seed/name/rank`.

    Args:
        seed: of the run.
        name: of the stream.
        rank: of the process, if several train the run and each draws its own numbers. Rank 0 draws the same numbers as
            a single process.
    """
    text = f"{seed}/{name}/{rank}" if rank else f"{seed}/{name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, name: Stream) -> torch.Generator:
    """Make the CPU generator of one of a run's random streams, at its start."""
    return torch.Generator().manual_seed(stream_seed(seed, name))


def build_data(run: Run, dataset: Dataset, device: str) -> DeviceData:
    """Preprocess the images, multiply them by `run.input_scale` and put them on the device.

    Args:
        run: what to train.
        dataset: as loaded for `run.dataset`.
        device: `cpu` or `cuda`.
    """
    train_images, test_images = resolve(PREPROCESSINGS[run.preprocessing])(dataset.train_images, dataset.test_images)
    return DeviceData(
        (train_images.mul_(run.input_scale), torch.tensor(dataset.train_labels)),
        (test_images.mul_(run.input_scale), torch.tensor(dataset.test_labels)),
        run,
        stream(run.seed, "batches"),
        device,
        boundaries=snapshot_iterations(run.iterations),
    )


def build_net(run: Run, classes: int, device: str) -> nn.Module:
    """Build the network on the device, with torch's default weights, which model initialisations may start from."""
    activation = resolve(ACTIVATIONS[run.activation])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(run.seed, "build"))
        net = build(resolve(MODELS[run.model]), activation, width=run.width, dropout=run.dropout, classes=classes)
    return net.to(device).to(memory_format=torch.channels_last)  # faster convolutions, on a CPU as well


def init_net_(
    net: nn.Module, run: Run, data: DeviceData, say: Callable[[str], None] = lambda text: None
) -> tuple[list[LayerEntry], int]:
    """Initialise the network, and seed the generator of its dropout.

    Args:
        net: the network.
        run: what to train.
        data: give the images of LSUV.
        say: called with what is done: `initialising`, and at each layer `initialising layer 7 of 19`.

    Returns:
        One entry per weight layer or maxout piece, for the record, and the number of forward passes that were begun;
        the last pass, which measures the variances, does not count.

    Raises:
        UsageError: the initialisation is from a plugin that this process does not know.
    """
    say("initialising")
    torch.manual_seed(stream_seed(run.seed, "dropout"))  # for LSUV
    with _undivided(net) if run.init == "lsuv" and not run.lsuv_pieces else contextlib.nullcontext():
        report = initialize_(
            net,
            function_of(run.init, run.plugin) if run.plugin else run.init,
            _init_images(run, data),
            generator=stream(run.seed, "init"),
            negative_slope=resolve(ACTIVATIONS[run.activation]).negative_slope,
            start=run.lsuv_start,
            tol=run.lsuv_tol,
            max_iter=run.lsuv_max_iter,
            dropout=run.lsuv_dropout,
            progress=lambda number, total: say(f"initialising layer {number} of {total}"),
        )
    torch.manual_seed(stream_seed(run.seed, "dropout"))  # for training, however much the initialisation has drawn
    entries = [cast("LayerEntry", {key: getattr(row, key) for key in RECORDED}) for row in report]
    return entries, report.passes - 1


def _init_images(run: Run, data: DeviceData) -> Iterator[Tensor]:
    """Return the images that the initialisation sees, in batches without end.

    Those of another data set are prepared as the run's own, with statistics of their own. Noise is normal with the
    standard deviation `input_scale`, that of an image after contrast normalisation. Both are our choice.
    """
    numbers = stream(run.seed, "lsuv")
    if run.lsuv_data == "noise":
        shape = (run.lsuv_batch_size, *data.train_images.shape[1:])
        while True:
            yield torch.randn(shape, generator=numbers).to(data.device) * run.input_scale
    if run.lsuv_data == "synthetic":
        data = build_data(run, synthetic.load("synthetic", Path()), data.device)
    for images, _ in data.fresh_batches(numbers, run.lsuv_batch_size):
        yield images


@contextlib.contextmanager
def _undivided(net: nn.Module) -> Iterator[None]:
    """Hide from an initialisation that maxout layers have pieces."""
    pieces = {
        one: one.pieces for one in net.modules() if isinstance(one, nn.Conv2d | nn.Linear) and "pieces" in vars(one)
    }
    try:
        for layer in pieces:
            layer.pieces = 1  # type: ignore[assignment]
        yield
    finally:
        for layer, number in pieces.items():
            layer.pieces = number


def make_trainer(
    run: Run, options: Options, data: DeviceData, callbacks: list[pl.Callback], rank: int = 0
) -> pl.Trainer:
    """Make Lightning's Trainer for one device, without any feature that costs time at every iteration.

    Lightning does not know of other ranks: `Classifier` sums their gradients and totals.

    Args:
        run: what to train.
        options: give the kind of device.
        data: decide the number of epochs.
        callbacks: in the order of their calls.
        rank: of this process, and of the GPU that it uses.
    """
    return pl.Trainer(
        accelerator=options.device,
        devices=[rank] if options.device == "cuda" else 1,
        plugins=[LightningEnvironment()],  # a SLURM job's variables must not make this a SLURM run
        max_epochs=sum(end > data.sampler.taken for end in data.epoch_ends),
        reload_dataloaders_every_n_epochs=1,
        precision=run.precision,  # type: ignore[arg-type]  # one of PRECISIONS, all of which are Lightning's
        callbacks=callbacks,
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
