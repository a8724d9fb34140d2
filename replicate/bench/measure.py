"""One measured training, in a process of its own: how fast it goes once it is going, and how long until it does."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from replicate.bench.plain import PlainClassifier, loader
from replicate.bench.work import Work, iteration_work
from replicate.data.dataset import Dataset
from replicate.options import Options
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_, make_trainer
from replicate.training.environment import configure
from replicate.training.graph import steps_for
from replicate.training.module import Classifier

IMAGES = 50_000  # as many as CIFAR-10 has; what they show does not matter
BASELINE_WORKERS = 8  # of the DataLoader; at most one a core, or it would only hinder itself


@dataclass(frozen=True, slots=True)
class Speed:
    """What one process measured.

    Args:
        rates: iterations a second, a window each.
        startup: seconds from the launch of the process to its first iteration's end.
        peak_memory: in bytes: of the GPU's allocator, on a CPU of the process.
        work: of one iteration of ours.
    """

    rates: tuple[float, ...]
    startup: float
    peak_memory: int
    work: Work


class _MeasuredError(Exception):
    """Ends a training that has been measured."""


class _Windows(pl.Callback):
    """Counts iterations in windows of time, once all processes that are to run beside each other are going."""

    def __init__(self, launched: float, gate: Path, windows: int, seconds: float, send: Callable[..., None]) -> None:
        self.launched, self.gate, self.windows, self.seconds, self.send = launched, gate, windows, seconds, send
        self.startup: float | None = None
        self.rates: list[float] = []
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
        if not self._warm:  # the second time round, whatever is made at first use has been made
            self._warm = True
            self.send("ready")
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
                raise _MeasuredError


def measure(
    path: str,
    run: Run,
    options: Options,
    launched: float,
    gate: Path,
    windows: int,
    seconds: float,
    send: Callable[..., None],
) -> Speed:
    """Train until so many windows have been measured.

    Args:
        path: `baseline`, a plain Lightning loop with a DataLoader; else ours, by one of options.STEPS, or as it comes.
        run: what to train; its iterations are ignored.
        options: device and threads.
        launched: time.time() when this process was started.
        gate: file whose existence opens the measurement.
        windows: number of windows.
        seconds: length of a window.
        send: is told `ready` once the training goes.
    """
    configure(options)
    steps = None if path == "baseline" else steps_for("auto" if path == "ours" else path, options.device, 1)
    dataset = _noise()
    data, net = build_data(run, dataset, options.device), build_net(run, len(dataset.classes), options.device)
    init_net_(net, run, data)
    module = Classifier(net, run, steps=steps)
    clock = _Windows(launched, gate, windows, seconds, send)
    try:
        if path != "baseline":
            make_trainer(run, options, data, [clock]).fit(module, datamodule=data)
        else:
            model = PlainClassifier(
                net.to(memory_format=torch.contiguous_format),
                lr=run.lr,
                momentum=run.momentum,
                weight_decay=run.weight_decay,
                milestones=run.milestones,
                lr_factor=run.lr_factor,
            )
            images, labels = data.train_images.cpu(), data.train_labels.cpu()
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
    peak = _peak_memory(options.device)
    work = iteration_work(module, run.batch_size, run.precision)
    return Speed(tuple(clock.rates), clock.startup or 0.0, peak, work)


def _noise() -> Dataset:
    """Random images, of which a few are for testing: evaluations are not what is measured."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES + 100, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES + 100)
    names = tuple("abcdefghij")
    return Dataset("noise", "", names, images[:IMAGES], labels[:IMAGES], images[IMAGES:], labels[IMAGES:])


def matmul_rate(options: Options, bf16: bool, send: Callable[..., None]) -> tuple[float, str]:
    """Floating-point operations a second of a large matrix product, the ceiling of this device, and the device's name.

    Args:
        options: device and threads.
        bf16: the precision of the product, else float32 without TF32.
        send: not used.
    """
    configure(options)
    cuda = options.device == "cuda"
    size = 8192 if cuda else 1024
    dtype = torch.bfloat16 if bf16 else torch.float32
    # Random numbers: on zeros a GPU is faster than on any real data.
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
