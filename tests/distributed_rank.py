"""What the ranks do in test_distributed.py: train a small net in float64, wait, or fail."""

import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.distributed import TCPStore
from training.fitting import KeptLosses, fit
from training.test_agreement import RUN, data, net

from replicate.options import Options
from replicate.run import Run
from replicate.training import distributed
from replicate.training.distributed import HOST, ProcessGroup, join_group
from replicate.training.module import Classifier, Eager
from replicate.training.record import weights_sha256


def train(rank: int, size: int, port: int, out: Path) -> None:
    """Train as a rank; the losses and the digest of the weights go to `out/RANK.pt`."""
    torch.set_num_threads(1)
    join_group(TCPStore(HOST, port, size, is_master=False), "cpu", rank, size)
    batches = data()
    group = ProcessGroup(rank, size, batches.sampler.batch_size)
    batches.shard(rank, size)
    start = net("vlrelu", dropout=0.0).to(memory_format=torch.channels_last)
    if rank:  # the weights of rank 0 must overwrite these
        for parameter in start.parameters():
            nn.init.zeros_(parameter)
    model = Classifier(start, replace(RUN, clip_norm=3.0, ema=0.9), group, KeptLosses(Eager()))
    fit(model, batches)
    found = {"losses": model.steps.losses, "weights": weights_sha256(start), "test": model.take("val")}
    torch.save({**found, "predicted": model.predictions()[0].tolist()}, out / f"{rank}.pt")


def wait(group: ProcessGroup, run: Run, options: Options) -> None:
    """Write the process's number to a file, and wait without end."""
    (options.out / "waiting.part").write_text(str(os.getpid()))
    (options.out / "waiting.part").rename(options.out / "waiting")
    time.sleep(300)


def fail(group: ProcessGroup, run: Run, options: Options) -> None:
    """Fail as on a full disk."""
    raise OSError(errno.ENOSPC, "no space left on device")


def hang(run: Run, options: Options, other: str) -> None:
    """Be a rank 0 that does not notice what happens to the other rank."""
    distributed.METHOD = "fork"  # fast, because this process has loaded torch
    distributed.GRACE_SECONDS = 0.2
    with distributed.launch_ranks(run, options, {"wait": wait, "fail": fail}[other]):
        time.sleep(300)
