"""Starts the processes that train one run together, and sees to it that all of them end when one does.

The process that was given the run is rank 0. It starts the others itself: Lightning's launchers would start the whole
command again, or take the result out of the process that has the claim. All are on one machine. Each other rank holds a
socket to the first, whose end tells each side that the other is gone, whatever the process group waits for.
"""

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from replicate.errors import KILLED, RankFailedError, transient_kind
from replicate.options import Options
from replicate.run import Run
from replicate.training.checkpoint import SIGNALS, StoppedError
from replicate.training.follow import follow
from replicate.training.module import DivergedError
from replicate.training.team import BACKENDS, Alone, Team

HOST = "127.0.0.1"
METHOD: Literal["spawn"] = "spawn"  # fresh processes: the first has threads, and perhaps CUDA
TIMEOUT = timedelta(minutes=30)  # one rank may initialise, load or log for so long while the others wait
# Gloo notices at once that a rank is gone. NCCL does not: after so long, what waits for it is ended.
GRACE_SECONDS = 20.0
REASON_SECONDS = 5.0  # between an error in the process group and the news of the rank that caused it


@contextlib.contextmanager
def team(run: Run, options: Options, resume: bool) -> Iterator[Alone]:
    """Within, as many processes as the options ask for train the run; this one is the first.

    Args:
        run: what is trained.
        options: how.
        resume: whether the run goes on from its checkpoint.

    Raises:
        RankFailedError: another process failed or died.
    """
    if options.devices_per_run == 1:
        yield Alone()
        return
    with _Others(run, options, resume):
        yield Team(0, options.devices_per_run, run.batch_size)


def join(store: TCPStore, device: str, rank: int, size: int) -> None:
    """Make this process a rank of the process group of one machine, and take its own GPU."""
    if device == "cuda":
        torch.cuda.set_device(rank)
    # Gloo would look the host's name up, which need not lead back here.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    dist.init_process_group(BACKENDS[device], store=store, rank=rank, world_size=size, timeout=TIMEOUT)


class _Others:
    """The ranks from 1 on, as the first one sees them: a context manager, at whose end none of them is left."""

    def __init__(self, run: Run, options: Options, resume: bool) -> None:
        self.order = (run, options, resume)
        self.size = options.devices_per_run
        self.device = options.device
        self.processes: dict[Connection, tuple[int, BaseProcess]] = {}
        self.fault: RankFailedError | None = None
        self._news = threading.Event()  # a fault, or all are done
        self._over = threading.Event()

    def __enter__(self) -> None:
        # Port 0: the system picks one that is free, and nobody can take it before it is used.
        self._store = TCPStore(HOST, 0, self.size, is_master=True, wait_for_workers=False, timeout=TIMEOUT)
        context = mp.get_context(METHOD)
        try:
            for rank in range(1, self.size):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_rank, args=(rank, self._store.port, *self.order, theirs), daemon=True, name=f"rank {rank}"
                )
                process.start()
                theirs.close()  # so that the socket ends when the process does
                self.processes[ours] = (rank, process)
            for pipe in self.processes:
                if (fault := self._heard(pipe)) is not None:
                    raise fault
            threading.Thread(target=self._watch, daemon=True).start()
            join(self._store, self.device, 0, self.size)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All come to their end by themselves: of the training, by a signal, or at a loss that is not finite.
        if error is None or isinstance(error, StoppedError | DivergedError):
            self._news.wait(GRACE_SECONDS)
            if self.device == "cpu":  # NCCL's end would wait for the others', and ends with the process
                dist.destroy_process_group()
        elif dist.is_initialized():
            self._news.wait(REASON_SECONDS)
        self._over.set()
        for pipe, (_, process) in self.processes.items():
            process.kill()
            process.join()
            with contextlib.suppress(OSError):
                pipe.close()
        if error is not None and self.fault is not None and error is not self.fault:
            raise self.fault from error

    def _heard(self, pipe: Connection) -> RankFailedError | None:
        """Wait for a rank's next word; None: it is ready, or done."""
        rank, process = self.processes[pipe]
        try:
            failure = pipe.recv()
        except (EOFError, OSError):
            process.join(REASON_SECONDS)
            code = process.exitcode
            killed = code is not None and code < 0
            how = f"killed by {signal.Signals(-code).name}" if killed and code else f"exit code {code}"
            return RankFailedError(f"rank {rank} of {self.size} died: {how}", KILLED if killed else None)
        if failure is None:
            return None
        said, kind = failure
        return RankFailedError(f"rank {rank} of {self.size} failed:\n{said}", kind)

    def _watch(self) -> None:
        """In a thread of its own: note the first rank that fails, and end this process if it does not itself."""
        waiting = list(self.processes)
        while waiting and self.fault is None:
            for pipe in wait(waiting):
                assert isinstance(pipe, Connection)
                self.fault = self.fault or self._heard(pipe)
                waiting.remove(pipe)
        self._news.set()
        if self.fault is None or self._over.wait(GRACE_SECONDS):
            return
        print(self.fault, flush=True)  # to the run's log, whose end becomes its record
        os.kill(os.getpid(), signal.SIGKILL)


def _rank(rank: int, port: int, run: Run, options: Options, resume: bool, pipe: Connection) -> None:
    """Be a rank from 1 on: say when it is ready, and when it is done; end when the first does."""
    for one in (signal.SIGINT, *SIGNALS):  # but while it trains, see Checkpoint
        signal.signal(one, signal.SIG_IGN)
    first_is_gone = threading.Thread(target=_end_with_the_first, args=(pipe,), daemon=True)
    try:
        first_is_gone.start()
        pipe.send(None)
        store = TCPStore(HOST, port, options.devices_per_run, is_master=False, timeout=TIMEOUT)
        join(store, options.device, rank, options.devices_per_run)
        follow(run, options, Team(rank, options.devices_per_run, run.batch_size), resume)
        failure = None
    except Exception as error:
        traceback.print_exc()
        failure = traceback.format_exc(), transient_kind(error)
    with contextlib.suppress(OSError):
        pipe.send(failure)
    if failure is None:
        first_is_gone.join()  # until then: an end of ours would look like a death to those who still read from us


def _end_with_the_first(pipe: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        pipe.recv()
    os._exit(0)
