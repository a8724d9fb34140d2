"""What the ranks do in test_distributed.py: train a small net in float64, or fail."""

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore
from training.test_agreement import RUN, data

from replicate.data.datamodule import DeviceData
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.options import Options
from replicate.run import Run
from replicate.training import distributed
from replicate.training.build import make_trainer
from replicate.training.distributed import HOST, ProcessGroup, join_group
from replicate.training.module import Classifier
from replicate.training.record import weights_sha256


class Recording(ProcessGroup):
    """Keeps the losses of whole batches."""

    def __init__(self, *place: int) -> None:
        super().__init__(*place)
        self.seen: list[float] = []

    def reduce_losses(self, losses: Tensor) -> Tensor:
        whole = super().reduce_losses(losses)
        self.seen += whole.tolist()
        return whole


def fit(model: Classifier, batches: DeviceData, folder: Path) -> None:
    """Train in float64, as a run would."""
    run = Run("lsuv", "vlrelu", precision="32-true")
    trainer = make_trainer(run, Options(folder), batches, [])
    model.double()
    trainer.fit(model, datamodule=batches)


def train(rank: int, size: int, port: int, out: Path, change: dict[str, Any]) -> None:
    """Train as a rank; the losses and the digest of the weights go to `out/RANK.pt`."""
    torch.set_num_threads(1)
    join_group(TCPStore(HOST, port, size, is_master=False), "cpu", rank, size)
    batches = data("cpu", torch.float64, 7)
    group = Recording(rank, size, batches.sampler.batch_size)
    for name, value in change.items():
        setattr(group, name, value)
    batches.shard(rank, size)
    start = build(FITNET4, ACTIVATIONS["vlrelu"], width=0.125, dropout=0.0).double()
    if rank == 0:  # the others' are to be overwritten by the first one's
        start.load_state_dict(torch.load(out.parent / "start.pt", weights_only=True))
    model = Classifier(start, replace(RUN, clip_norm=3.0), group)
    fit(model, batches, out)
    found = {"losses": group.seen, "weights": weights_sha256(model.net), "test": model.take("val")}
    torch.save({**found, "predicted": model.predictions().tolist()}, out / f"{rank}.pt")


def wait(group: ProcessGroup, run: Run, options: Options) -> None:
    """Leave the process's number in a file, and wait without end."""
    (options.out / "waiting.part").write_text(str(os.getpid()))
    (options.out / "waiting.part").rename(options.out / "waiting")
    time.sleep(300)


def fail(group: ProcessGroup, run: Run, options: Options) -> None:
    """Meet a full disk."""
    raise OSError(errno.ENOSPC, "no space left on device")


def kill_the_last(group: ProcessGroup, run: Run, options: Options) -> None:
    """Die by SIGKILL if this is the last rank, else wait for what it does not send."""
    if group.rank == group.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    group.all_reduce(torch.ones(1))


def hang(run: Run, options: Options, other: str) -> None:
    """Be a rank 0 that waits for no other rank, and does not notice what becomes of it."""
    distributed.METHOD = "fork"  # fast: this process has torch loaded
    distributed.GRACE_SECONDS = 0.2
    with distributed.launch_ranks(run, options, {"wait": wait, "fail": fail}[other]):
        time.sleep(300)
