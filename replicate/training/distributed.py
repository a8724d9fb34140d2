"""Several processes train one run, each on a part of every batch.

The process that holds the run's lease is rank 0; it starts the others on the same machine. They write nothing. If one
fails or dies, all of them end, and the run's record names the one that did.
"""

import contextlib
import importlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from replicate import provenance
from replicate.errors import KILLED, RankFailedError, transient_kind
from replicate.names import modules
from replicate.options import Options
from replicate.run import Run

HOST = "127.0.0.1"
METHOD = "spawn"  # fresh processes: rank 0 has threads, and perhaps CUDA
# Gradients use the device's own backend; everything that is exchanged less often is on the CPU.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
CONNECT_TIMEOUT = timedelta(seconds=30)  # to another process of this machine
TIMEOUT = timedelta(minutes=30)  # one rank may initialise, load or log for this long while the others wait
REASON_SECONDS = 5.0  # from an error in the process group to the report of the rank that caused it
# Gloo notices at once that a rank has died. NCCL does not: rank 0 is killed after the first time, the others after the
# second.
GRACE_SECONDS, OTHERS_GRACE_SECONDS = 20.0, 1.0


class SingleProcess:
    """The only process of a run: rank 0 of 1.

    `share` is the fraction of every batch that this process trains on.
    """

    rank, size, share = 0, 1, 1.0

    def broadcast_(self, module: nn.Module) -> None:
        """Overwrite the parameters with those of rank 0."""

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        """Add the gradients of the whole batch's mean loss, given the mean loss of this rank's part."""
        loss.backward()  # type: ignore[no-untyped-call]

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks."""
        return values

    def gather(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """List the values of all ranks; tensors must be on the CPU."""
        return [values]


class ProcessGroup(SingleProcess):
    """One of several processes, which have joined torch's process group.

    After each backward pass the gradients are summed over the ranks in one buffer. DistributedDataParallel is not used:
    a chunk of batches is one forward pass to its wrapper, and it rearranges its buckets after the first iteration of
    each process. That changes the order of the sums, so with three ranks a resumed run would end in other bits. It
    could not save much either: the gradients of FitNet-4 are 5 MB.

    Args:
        rank: of this process.
        size: number of processes.
        batch_size: images in a whole batch, divided as in DeviceData.shard.
    """

    def __init__(self, rank: int, size: int, batch_size: int) -> None:
        self.rank, self.size = rank, size
        self.share = (batch_size // size + (rank < batch_size % size)) / batch_size

    def broadcast_(self, module: nn.Module) -> None:
        """Overwrite the parameters with those of rank 0."""
        for parameter in module.parameters():
            values = parameter.detach().contiguous()
            dist.broadcast(values, src=0)
            parameter.detach().copy_(values)

    def backward(self, module: nn.Module, loss: Tensor) -> None:
        """Add the gradients of the whole batch's mean loss: the same bits on every rank."""
        # A rank's loss is a mean over its part, and parts may differ in size: 43, 43 and 42 of 128.
        (loss * self.share).backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        summed = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(summed)
        for gradient, part in zip(gradients, torch.split(summed, [one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum over the ranks: the same bits on every rank, on the CPU."""
        summed = values.detach().cpu().clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """List the values of all ranks; tensors must be on the CPU."""
        gathered = [values] * self.size
        dist.all_gather_object(gathered, values)
        return gathered


Function = Callable[[ProcessGroup, Run, Options], None]


@contextlib.contextmanager
def launch_ranks(run: Run, options: Options, function: Function) -> Iterator[SingleProcess]:
    """Train a run in as many processes as the options ask for, of which this one is rank 0.

    Each other process calls `function(group, run, options)`, and is killed at the end of the context.

    Args:
        run: what is trained.
        options: how.
        function: can be pickled, so that another process gets it.

    Raises:
        RankFailedError: another process failed or died.
    """
    size = options.devices_per_run
    if size == 1:
        yield SingleProcess()
        return
    # Port 0: the system picks a free one, and nobody can take it before it is used.
    store = _store(0, size, is_master=True, wait_for_workers=False)
    others = _Others(size, (store.port, function, run, options, provenance.code().sources))

    def stop(*_: object) -> None:
        """End the others too: one that is loading torch would notice too late."""
        others.end()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    terminate = signal.signal(signal.SIGTERM, stop)  # until CheckpointOnSignal does
    try:
        while not store.check([f"ready {rank}" for rank in range(1, size)]):
            if others.failed.wait(0.05):
                raise RuntimeError("a rank failed before it was ready")
        join_group(store, options.device, 0, size)
        signal.signal(signal.SIGTERM, terminate)
        yield ProcessGroup(0, size, run.batch_size)
    except RuntimeError as error:  # as Gloo and NCCL raise it; the rank that has died is the reason
        if others.failed.wait(REASON_SECONDS) and others.failure is not None:
            raise others.failure from error
        raise
    finally:
        others.end()
        if options.device == "cpu" and dist.is_initialized():  # NCCL would wait for ranks that have ended
            dist.destroy_process_group()


def _store(port: int, size: int, **settings: bool) -> TCPStore:
    """Make or join the store through which the ranks find each other."""
    try:
        store = TCPStore(HOST, port, size, timeout=CONNECT_TIMEOUT, **settings)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RuntimeError(f"the processes of the run cannot connect to each other at {HOST}: {reason}") from None
    store.set_timeout(TIMEOUT)
    return store


def join_group(store: TCPStore, device: str, rank: int, size: int) -> None:
    """Make this process a rank of the process group of one machine, and select its own GPU."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    # Gloo would look up the host's name, which need not lead back to this machine. The user's variable is for several.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=size, timeout=TIMEOUT)


class _Others(threading.Thread):
    """Starts the ranks from 1 on, and waits for one that fails.

    Args:
        size: number of ranks.
        args: of `_rank`, without the first two.
    """

    def __init__(self, size: int, args: tuple[Any, ...]) -> None:
        super().__init__(daemon=True)
        self.size = size
        self.failure: RankFailedError | None = None
        self.failed, self.ended = threading.Event(), threading.Event()
        self._reports: SimpleQueue[tuple[int, str, str | None]] = mp.get_context(METHOD).SimpleQueue()
        settings = {"join": False, "daemon": True, "start_method": METHOD}
        self._context = start_processes(_rank, (self._reports, *args), size - 1, **settings)  # type: ignore[no-untyped-call]
        self.start()

    def run(self) -> None:
        """Wait. If a rank fails and this process does not notice, end this process."""
        try:
            while not self._context.join(grace_period=OTHERS_GRACE_SECONDS):
                pass
        except ProcessExitedException as error:
            if self.ended.is_set():
                return
            self.failure = self._describe(error)
        self.failed.set()
        if not self.ended.wait(GRACE_SECONDS):
            print(self.failure, flush=True)  # to the run's log, whose end becomes its record
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self) -> None:
        """Kill the ranks that still run."""
        self.ended.set()
        for process in self._context.processes:
            process.kill()
        self.join()

    def _describe(self, error: ProcessExitedException) -> RankFailedError:
        name = f"rank {error.error_index + 1} of {self.size}"
        while not self._reports.empty():
            rank, report, kind = self._reports.get()
            if rank == error.error_index + 1:
                return RankFailedError(f"{name} failed:\n{report}", kind)
        if error.signal_name:
            return RankFailedError(f"{name} died: killed by {error.signal_name}", KILLED)
        return RankFailedError(f"{name} died: exit code {error.exit_code}", None)


def _rank(
    index: int, reports: "SimpleQueue[Any]", port: int, function: Function, run: Run, options: Options, sources: str
) -> None:
    """Be one of the other ranks, until rank 0 ends this process, or ends itself."""
    rank, size = index + 1, options.devices_per_run
    try:
        for one in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):  # until CheckpointOnSignal does
            signal.signal(signal.Signals[one], signal.SIG_IGN)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        for module in modules():  # all that the training may load
            importlib.import_module(module)
        if provenance.code().sources != sources:
            raise RuntimeError(f"{provenance.PACKAGE} was changed after rank 0 had loaded it; give the command again")
        store = _store(port, size, is_master=False)
        store.set(f"ready {rank}", "")
        join_group(store, options.device, rank, size)
        function(ProcessGroup(rank, size, run.batch_size), run, options)
    except Exception as error:
        reports.put((rank, traceback.format_exc(), transient_kind(error)))
        os._exit(1)
    _end_with_parent()  # not earlier: ranks that still read from this process would fail


def _end_with_parent() -> None:
    mp.parent_process().join()  # type: ignore[union-attr]  # a rank has one
    os._exit(1)
