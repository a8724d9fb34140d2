"""One measured training, in its own process: its speed, and the time until it runs."""

import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from bench.plain import PlainClassifier, loader
from replicate.data.dataset import Dataset
from replicate.errors import first_error
from replicate.names import CIFAR_SHAPE
from replicate.options import Options
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_, make_trainer
from replicate.training.cuda_graph import steps_for
from replicate.training.environment import configure
from replicate.training.module import Classifier

IMAGES = 50_000  # as many as CIFAR-10 has
CLASSES = tuple("abcdefghij")
PROFILED_ROWS = 40  # of the table of kernels
BASELINE_WORKERS = 8  # of the DataLoader, at most one per core


@dataclass(frozen=True, slots=True)
class Speed:
    """What one process measured.

    Args:
        rates: iterations per second in each window.
        startup: seconds from the launch of the process to the end of its first iteration.
        peak_memory: bytes of the GPU's allocator; on a CPU, of the process.
        operations: floating-point operations of one iteration.
        kernels: table of the kernels of a few iterations; empty if it was not recorded.
    """

    rates: tuple[float, ...]
    startup: float
    peak_memory: int
    operations: int
    kernels: str


class _MeasuredError(Exception):
    """Ends a training after its measurement."""


class _Windows(pl.Callback):
    """Counts iterations in windows of time, once all simultaneous processes are running.

    The next chunk of iterations after the windows is profiled: recording slows them down.
    """

    def __init__(
        self,
        launched: float,
        gate: Path,
        windows: int,
        seconds: float,
        send: Callable[..., None],
        profiler: profile | None,
    ) -> None:
        self.launched, self.gate, self.windows, self.seconds, self.send = launched, gate, windows, seconds, send
        self.startup: float | None = None
        self.rates: list[float] = []
        self.kernels = ""
        self._profiler = profiler
        self._iterations = 0
        self._begin: tuple[float, int] | None = None
        self._warm = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._iterations = pl_module.iteration if isinstance(pl_module, Classifier) else self._iterations + 1
        if self.startup is None:
            _synchronize()
            self.startup = time.time() - self.launched
            return
        if not self._warm:  # after the second call, everything that is created at first use exists
            self._warm = True
            self.send("ready")
        if len(self.rates) == self.windows:
            assert self._profiler is not None
            assert self._begin is not None
            _synchronize()
            self._profiler.stop()
            self.kernels = f"{self._iterations - self._begin[1]} iterations\n{_table(self._profiler)}"
            raise _MeasuredError
        if self._begin is None:
            if self.gate.exists():
                _synchronize()
                self._begin = time.perf_counter(), self._iterations
            return
        since, counted = self._begin
        if time.perf_counter() - since >= self.seconds:
            _synchronize()
            now = time.perf_counter()
            self.rates.append((self._iterations - counted) / (now - since))
            self._begin = now, self._iterations
            if len(self.rates) == self.windows:
                if self._profiler is None:
                    raise _MeasuredError
                self._profiler.start()


def measure(
    path: str,
    run: Run,
    options: Options,
    launched: float,
    gate: Path,
    windows: int,
    seconds: float,
    profiled: bool,
    send: Callable[..., None],
) -> Speed | str:
    """Train until all windows have been measured.

    Args:
        path: `baseline`, a plain Lightning loop with a DataLoader; else the training-step backend of our loop.
        run: what to train; its iterations are ignored.
        options: device and threads.
        launched: time.time() when this process was started.
        gate: file whose existence starts the measurement.
        windows: number of windows.
        seconds: length of a window.
        profiled: whether to record the kernels of a few iterations afterwards.
        send: receives `ready` once the training runs.

    Returns:
        The speed; if the training failed, its first error in one line.
    """
    # On a GPU, its kernels without the CPU's operations, which take time to record.
    activity = ProfilerActivity.CUDA if options.device == "cuda" else ProfilerActivity.CPU
    clock = _Windows(launched, gate, windows, seconds, send, profile(activities=[activity]) if profiled else None)
    try:
        _train(path, run, options, clock)
    except Exception as error:
        traceback.print_exc()
        first = first_error(error)  # a failed capture raises further errors
        lines = str(first).strip().splitlines()
        return f"{type(first).__name__}: {lines[0]}" if lines else type(first).__name__
    peak = _peak_memory(options.device)
    return Speed(tuple(clock.rates), clock.startup or 0.0, peak, iteration_operations(run), clock.kernels)


def _train(path: str, run: Run, options: Options, clock: _Windows) -> None:
    """Train until the clock has measured everything."""
    configure(options)
    steps = None if path == "baseline" else steps_for(run, replace(options, step=path))
    data, net = build_data(run, _noise(), options.device), build_net(run, len(CLASSES), options.device)
    init_net_(net, run, data)
    try:
        if path != "baseline":
            module = Classifier(net, run, steps=steps)
            make_trainer(run, options, data, [clock]).fit(module, datamodule=data)
            return
        model = PlainClassifier(net.to(memory_format=torch.contiguous_format), run)
        images, labels = data.train_images.cpu().contiguous(), data.train_labels.cpu()
        workers = min(BASELINE_WORKERS, torch.multiprocessing.cpu_count())
        batches = loader(images, labels, run.pad, run.batch_size, workers)
        pl.Trainer(
            accelerator=options.device,
            devices=1,
            max_epochs=-1,
            precision=run.precision,  # type: ignore[arg-type]  # one of PRECISIONS, all of which are Lightning's
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(model, train_dataloaders=batches)
    except _MeasuredError:
        pass


def iteration_operations(run: Run) -> int:
    """Count the floating-point operations of one iteration's convolutions and matrix products, forward and backward."""
    net = build_net(run, len(CLASSES), "meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(run.batch_size, *CIFAR_SHAPE, device="meta")).sum().backward()
    return int(counter.get_total_flops())


def _table(profiler: profile) -> str:
    key = f"self_{'device' if ProfilerActivity.CUDA in profiler.activities else 'cpu'}_time_total"
    table: str = profiler.key_averages().table(sort_by=key, row_limit=PROFILED_ROWS, max_name_column_width=100)
    return table


def _noise() -> Dataset:
    """Random images. Only a few are for testing, because evaluations are not measured."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES + 100, *CIFAR_SHAPE), dtype=np.uint8)
    labels = rng.integers(0, len(CLASSES), IMAGES + 100)
    return Dataset("noise", "", CLASSES, images[:IMAGES], labels[:IMAGES], images[IMAGES:], labels[IMAGES:])


def matmul_rate(options: Options, bf16: bool, send: Callable[..., None]) -> tuple[float, str]:
    """Measure the rate of a large matrix product, which is the ceiling of this device.

    Args:
        options: device and threads.
        bf16: whether to multiply in bfloat16 rather than in float32 without TF32.
        send: not used.

    Returns:
        Floating-point operations per second, and the name of the GPU; on a CPU, an empty name.
    """
    configure(options)
    cuda = options.device == "cuda"
    size = 8192 if cuda else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    # Not zeros, on which a GPU is faster than on real data
    a, b = (torch.randn(size, size, device=options.device).to(dtype) for _ in range(2))
    times = []
    for _ in range(13):
        _synchronize()
        begin = time.perf_counter()
        a @ b
        _synchronize()
        times.append(time.perf_counter() - begin)
    name = torch.cuda.get_device_name() if cuda else ""
    return 2 * size**3 / statistics.median(times[3:]), name


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
