"""The processes that train one run together, each on its part of every batch: one alone, or a team."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from replicate.init.ranks import Ranks

# Gradients go by the device's own way; what is said once a chunk or more seldom is on the CPU in any case.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}


class Alone:
    """One process, which does it all."""

    rank, size = 0, 1

    def backward(self, module: pl.LightningModule, loss: Tensor) -> None:
        """Add the gradients of the whole batch's mean loss, given this process's."""
        loss.backward()  # type: ignore[no-untyped-call]

    def losses(self, losses: Tensor) -> Tensor:
        """Give the mean losses of whole batches (n,), given those of this process's parts."""
        return losses

    def total(self, totals: Tensor) -> Tensor:
        """Sum over the processes."""
        return totals

    def wish(self, stop: int | None, due: bool) -> tuple[int | None, bool]:
        """Give what any process wishes: to stop, by the number of a signal, and to save the run's state."""
        return stop, due

    def gather(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """List what each process has, by rank."""
        return [own]

    def interleave(self, part: Tensor) -> Tensor:
        """Put together what each process has for its test images (n,), in the order of all of them."""
        return part

    def trainer_settings(self) -> dict[str, Any]:
        """Say how a Trainer is to use the devices."""
        # A SLURM job's variables must not make this a SLURM run.
        return {"devices": 1, "plugins": [LightningEnvironment()]}


class Team(Alone):
    """One of several processes, which are in a process group already.

    After each backward pass the gradients are summed over the processes in one buffer. DistributedDataParallel's
    wrapper is not used: a chunk has many backward passes in one forward pass of the wrapper; and its buckets are laid
    out anew after the first iteration of each call, which changes the order of the sums, so that with three processes a
    run that goes on from a checkpoint would end in other bits. What is lost is that it sends while the backward pass
    goes on: 5 MB for FitNet-4.

    Args:
        rank: of this process.
        size: number of processes.
        batch_size: images in a whole batch, split as in DeviceData.shard.
    """

    def __init__(self, rank: int, size: int, batch_size: int) -> None:
        self.rank, self.size = rank, size
        self.share = (batch_size // size + (rank < batch_size % size)) / batch_size

    def backward(self, module: pl.LightningModule, loss: Tensor) -> None:
        """Add the gradients of the whole batch's mean loss, given this process's: the same bits in each."""
        # A rank's loss is a mean over its part, which need not be as large as another's: 43, 43 and 42 of 128.
        (loss * self.share).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(summed)
        for gradient, part in zip(gradients, torch.split(summed, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def losses(self, losses: Tensor) -> Tensor:
        """Give the mean losses of whole batches (n,), given those of this process's parts."""
        return self.total(losses * self.share)

    def total(self, totals: Tensor) -> Tensor:
        """Sum over the processes: the same bits in each."""
        summed = totals.detach().cpu().clone()
        dist.all_reduce(summed)
        return summed

    def wish(self, stop: int | None, due: bool) -> tuple[int | None, bool]:
        """Give what any process wishes: to stop, by the number of a signal, and to save the run's state."""
        wishes = torch.tensor([stop or 0, int(due)])
        dist.all_reduce(wishes, dist.ReduceOp.MAX)
        number, save = wishes.tolist()
        return number or None, bool(save)

    def gather(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """List what each process has, by rank; its tensors come to the CPU."""
        mine = {key: value.cpu() if isinstance(value, Tensor) else value for key, value in own.items()}
        gathered = [mine] * self.size
        dist.all_gather_object(gathered, mine)
        return gathered

    def interleave(self, part: Tensor) -> Tensor:
        """Put together what each process has for its test images (n,), in the order of all of them."""
        parts = [one["part"] for one in self.gather({"part": part})]
        whole = part.new_empty(sum(map(len, parts)))
        for rank, one in enumerate(parts):
            whole[rank :: self.size] = one  # as in DeviceData.shard
        return whole

    def trainer_settings(self) -> dict[str, Any]:
        """Say how a Trainer is to use the devices."""
        return {
            "devices": self.size,
            "strategy": _Strategy(),
            "plugins": [_Started(self.rank)],
            "use_distributed_sampler": False,
        }


class _Started(LightningEnvironment):
    """Tells Lightning that the processes have been started, and which of them this is."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class _Strategy(DDPStrategy):
    """Lightning's DDP without DistributedDataParallel's wrapper, see Team."""

    def configure_ddp(self) -> None:
        """Give all processes the first one's weights."""
        assert self.model is not None
        Ranks(dist.group.WORLD).spread_(list(self.model.parameters()))

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        # Lightning's handler of SIGTERM broadcasts from within the handler, which meets whatever the others are about.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
