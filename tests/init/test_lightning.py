"""LSUV in Lightning's trainer: before the first step, on its batches, with one result in all processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from init.zoo import noise
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from replicate.init import measure
from replicate.init.lightning import LSUVInit

DATA = TensorDataset(noise(64, 6), torch.arange(64) % 3)


class Module(pl.LightningModule):
    """Keeps its weights before the first step, and the batches that it gets."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
        self.lr = lr
        self.start: dict[str, Tensor] = {}
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [10 * batch[0], batch[1]]

    def training_step(self, batch: Any, _: int) -> Tensor:
        self.start = self.start or {name: value.clone() for name, value in self.net.state_dict().items()}
        self.batches.append(batch[0])
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def fit(
    module: Module,
    folder: Path,
    *callbacks: pl.Callback,
    loader: Any = None,
    ckpt_path: str | None = None,
    **options: Any,
) -> None:
    torch.manual_seed(1)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_steps": 3, **options},
    )
    loader = DataLoader(DATA, batch_size=32, shuffle=True) if loader is None else loader
    trainer.fit(module, loader, ckpt_path=ckpt_path)


def test_the_weights_are_initialised_before_the_first_step_on_the_trainers_batches(tmp_path: Path) -> None:
    module, callback = Module(), LSUVInit(dropout=False)
    fit(module, tmp_path, callback)
    assert callback.report is not None
    assert [row.status for row in callback.report] == ["converged"] * 2
    module.net.load_state_dict(module.start)
    for row in measure(module.net, 10 * DATA.tensors[0], dropout=False):
        assert row.variance == pytest.approx(1, abs=0.1)  # batches of 32 of these 64


def test_the_training_gets_the_same_batches(tmp_path: Path) -> None:
    modules = Module(), Module()
    fit(modules[0], tmp_path, LSUVInit())
    fit(modules[1], tmp_path)
    for ours, plain in zip(modules[0].batches, modules[1].batches, strict=True):
        assert torch.equal(ours, plain)


def test_a_resumed_training_keeps_its_weights(tmp_path: Path) -> None:
    first, resumed, callback = Module(), Module(), LSUVInit()
    fit(first, tmp_path, pl.callbacks.ModelCheckpoint(tmp_path, filename="last"))
    fit(resumed, tmp_path, callback, ckpt_path=str(tmp_path / "last.ckpt"), max_steps=4)
    assert callback.report is None
    assert all(torch.equal(value, first.net.state_dict()[name]) for name, value in resumed.start.items())


class Stream(IterableDataset):
    """A data set without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(DATA)


class Several(Module):
    """Gets batches of two loaders."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch["images"]


def test_other_kinds_of_loaders(tmp_path: Path) -> None:
    for module, loader in (
        (Module(), DataLoader(Stream(), batch_size=32)),
        (Several(), {"images": DataLoader(DATA, batch_size=32), "others": DataLoader(Stream(), batch_size=16)}),
    ):
        callback = LSUVInit(dropout=False)
        fit(module, tmp_path, callback, loader=loader)
        assert callback.report is not None
        assert [row.status for row in callback.report] == ["converged"] * 2


class SaveRank(pl.Callback):
    """Writes the weights of each process before the first step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.save([pl_module.start, pl_module.batches[0]], self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.filterwarnings("ignore")
def test_all_processes_get_the_same_weights(tmp_path: Path) -> None:
    fit(Module(), tmp_path, LSUVInit(), SaveRank(tmp_path), strategy="ddp_fork", devices=2, max_steps=1)
    (weights, batch), (others, other_batch) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert not torch.equal(batch, other_batch)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not torch.equal(weights["0.weight"], Module().net[0].weight)
