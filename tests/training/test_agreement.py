"""The fast path is the same training as a plain Lightning loop: in float64, loss by loss."""

import copy
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from bench.plain import PlainClassifier
from scipy.stats import ks_2samp
from torch import Tensor
from torch.utils.data import DataLoader

from replicate.data.datamodule import DeviceData
from replicate.init import initialize_
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.run import Run
from replicate.training.cuda_graph import CudaGraph
from replicate.training.module import Classifier, Eager, Steps

ITERATIONS = 50
# Milestones and chunks that don't divide each other; decay and rates large enough for a slip to show at once.
PROTOCOL = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "milestones": (13, 37), "lr_factor": 0.1}
RUN = Run("lsuv", "vlrelu", batch_size=16, iterations=ITERATIONS, pad=4, **PROTOCOL)
SMALL_LR = 1e-3  # in float32, where it depends on the processor's rounding whether maxout survives the rate above
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(device: str, dtype: torch.dtype, chunk: int) -> DeviceData:
    images = torch.randn(60, 3, 32, 32, generator=seeded(1), dtype=torch.float64).to(dtype)
    labels = torch.randint(10, (60,), generator=seeded(2))
    made = DeviceData((images, labels), (images[:10], labels[:10]), RUN, seeded(3), device)
    made.chunk = chunk
    return made


@functools.cache
def started(activation: str, dtype: torch.dtype) -> torch.nn.Module:
    """A small FitNet-4 without dropout, started by LSUV."""
    made = build(FITNET4, ACTIVATIONS[activation], width=0.125, dropout=0.0).to(dtype)
    batches = iter(lambda: torch.randn(32, 3, 32, 32, generator=seeded(4), dtype=torch.float64).to(dtype), None)
    initialize_(made, "lsuv", batches, generator=seeded(5))
    for parameter in made.parameters():
        if parameter.ndim == 1:  # biases start at zero, where decay does not show
            torch.nn.init.normal_(parameter, std=0.3, generator=seeded(6))
    return made


def net(activation: str, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A copy of that net, to be trained."""
    return copy.deepcopy(started(activation, dtype)).to(device)


def trainer(folder: Path, device: str, dtype: torch.dtype, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator=device,
        devices=1,
        precision={torch.float64: "64-true", torch.float32: "32-true"}[dtype],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **settings,
    )


class KeptLosses:
    """Keeps the loss of every iteration that some steps make, and the gradient after the first chunk."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.name = steps, steps.name
        self.losses: list[float] = []
        self.gradient = torch.empty(0)

    def __call__(self, module: Classifier, optimizer: torch.optim.Optimizer, chunk: Any) -> Tensor:
        losses = self.steps(module, optimizer, chunk)
        if not self.losses:
            self.gradient = gradient_of(module)
        self.losses += losses.tolist()
        return losses


def gradient_of(module: pl.LightningModule) -> Tensor:
    return torch.cat([parameter.grad.flatten().cpu() for parameter in module.net.parameters()])


class RecordedPlain(PlainClassifier):
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.losses: list[float] = []
        self.gradient = torch.empty(0)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not len(self.gradient):
            self.gradient = gradient_of(self)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss = super().training_step(batch, batch_index)
        self.losses.append(loss.item())
        return loss


def fast(
    folder: Path,
    activation: str,
    device: str,
    dtype: torch.dtype,
    chunk: int = 7,
    steps: Steps | None = None,
    **change: Any,
) -> KeptLosses:
    run = replace(RUN, **change)
    model = Classifier(net(activation, device, dtype), run, steps=KeptLosses(steps or Eager()))
    batches = data(device, dtype, chunk)
    settings = {"max_epochs": len(batches.epoch_ends), "reload_dataloaders_every_n_epochs": 1}
    trainer(folder, device, dtype, **settings).fit(model, datamodule=batches)
    return model.steps


class Batches:
    """The batches of the fast path, one at a time."""

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        self.data = data(device, dtype, chunk=1)

    def __len__(self) -> int:
        return ITERATIONS

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return islice(self.data.batches, ITERATIONS)


@functools.cache  # several tests ask for the same
def plain(activation: str, device: str, dtype: torch.dtype) -> RecordedPlain:
    model = RecordedPlain(net(activation, device, dtype), **PROTOCOL)
    with tempfile.TemporaryDirectory() as folder:
        trainer(Path(folder), device, dtype, max_epochs=1).fit(model, train_dataloaders=Batches(device, dtype))
    return model


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [Eager, CudaGraph], ids=["eager", "graph"])
@pytest.mark.parametrize("activation", ["maxout", "vlrelu"])
def test_the_losses_of_fifty_iterations_agree_in_float64(
    tmp_path: Path, activation: str, steps: type[Steps], device: str
) -> None:
    ours = fast(tmp_path, activation, device, torch.float64, steps=steps()).losses
    theirs = plain(activation, device, torch.float64).losses
    assert len(ours) == len(theirs) == ITERATIONS
    # On a GPU a graph's learning rate is float32.
    assert ours == pytest.approx(theirs, rel=1e-6 if device == "cuda" and steps is CudaGraph else 1e-9)
    assert max(theirs) / min(theirs) > 1.05  # something was learnt, or agreement would be cheap


class AllDecayed(Classifier):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        run = self.run
        return torch.optim.SGD(self.net.parameters(), lr=run.lr, momentum=run.momentum, weight_decay=run.weight_decay)


def test_the_agreement_notices_each_slip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = plain("vlrelu", "cpu", torch.float64).losses
    slips = {
        "no weight decay": {"weight_decay": 0.0},
        "a milestone one iteration late": {"milestones": (14, 37)},
        "a milestone one iteration early": {"milestones": (13, 36)},
    }
    for name, change in slips.items():
        assert fast(tmp_path, "vlrelu", "cpu", torch.float64, **change).losses != pytest.approx(theirs, rel=1e-9), name
    monkeypatch.setitem(globals(), "Classifier", AllDecayed)
    assert fast(tmp_path, "vlrelu", "cpu", torch.float64).losses != pytest.approx(theirs, rel=1e-9), "decayed biases"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("steps", [Eager, CudaGraph], ids=["eager", "graph"])
def test_the_first_loss_and_gradient_agree_in_float32(tmp_path: Path, steps: type[Steps], device: str) -> None:
    # Later ones drift apart by rounding alone: another number of threads moves them by 2e-3 within 50 iterations.
    kept = fast(tmp_path, "maxout", device, torch.float32, chunk=1, steps=steps(), lr=SMALL_LR)
    theirs = plain("maxout", device, torch.float32)
    assert kept.losses[0] == pytest.approx(theirs.losses[0], rel=1e-4)
    assert (kept.gradient - theirs.gradient).norm() <= 1e-4 * theirs.gradient.norm()
    assert theirs.gradient.norm() > 0.1


def test_chunks_change_no_number(tmp_path: Path) -> None:
    settings = {"dtype": torch.float32, "lr": SMALL_LR}
    ends = [fast(tmp_path, "maxout", "cpu", chunk=chunk, **settings).losses for chunk in (1, 4, 64)]
    assert ends[0] == ends[1] == ends[2]


def dropout_losses(
    folder: Path, path: str, dropout: float = 0.2, iterations: int = 150, steps: Steps | None = None
) -> list[float]:
    """Losses of one net on copies of one image at learning rate 0: what differs is the dropout masks."""
    torch.manual_seed(6)  # for LSUV, which runs with dropout: both begin at the same weights
    made = build(FITNET4, ACTIVATIONS["relu"], width=0.125, dropout=dropout)
    noise = torch.randn(16, 3, 32, 32, generator=seeded(1))
    initialize_(made, "lsuv", iter(lambda: noise, None), generator=seeded(5))
    images, labels = noise[:1].expand(16 * iterations, -1, -1, -1), torch.full((16 * iterations,), 3)
    # At a learning rate of 1e-12 no bit of a weight changes.
    still = replace(RUN, iterations=iterations, milestones=(), pad=0, mirror=False, lr=1e-12, weight_decay=0.0)
    batches = DeviceData((images, labels), (images[:16], labels[:16]), still, seeded(3))
    batches.chunk = 7
    torch.manual_seed(7 if path == "fast" else 8)
    if path == "fast":
        model: Any = Classifier(made, still, steps=KeptLosses(steps or Eager()))
        once = trainer(folder, "cpu", torch.float32, max_epochs=1, reload_dataloaders_every_n_epochs=1)
        once.fit(model, datamodule=batches)
        return list(model.steps.losses)
    else:
        model = RecordedPlain(made, **{**PROTOCOL, "lr": 0.0, "milestones": ()})
        pairs = DataLoader(list(islice(batches.batches, iterations)), batch_size=None)
        trainer(folder, "cpu", torch.float32, max_epochs=1).fit(model, pairs)
    return model.losses


def test_with_dropout_the_losses_have_the_same_distribution(tmp_path: Path) -> None:
    ours, theirs = dropout_losses(tmp_path, "fast"), dropout_losses(tmp_path, "plain")
    assert len(set(ours)) == len(ours) == 150  # fresh masks at each iteration
    assert abs(np.corrcoef(ours[1:], ours[:-1])[0, 1]) < 3 / 150**0.5
    assert ks_2samp(ours, theirs).pvalue > 0.01
    weaker = dropout_losses(tmp_path, "fast", dropout=0.05)
    assert dropout_losses(tmp_path, "fast", iterations=20, steps=CudaGraph()) == ours[:20]
    assert ks_2samp(weaker, theirs).pvalue < 1e-3  # the test would notice another rate
