"""The iterations of a chunk as replays of one iteration that was captured as a CUDA graph."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from replicate.data.cache import folder as cache_folder
from replicate.data.datamodule import Chunk
from replicate.errors import MEMORY, GraphError, first_error, transient_kind
from replicate.options import Options
from replicate.run import CAPTURED, Run
from replicate.training.module import Classifier, Eager, Steps
from replicate.training.static_buffers import HalfCopies, SavedState, StaticBuffers

CHECKED = 3  # iterations that a graph repeats before it is used, each with its own batch, masks and gradients
# Relative. A graph's possible mistakes, such as an old batch or the same masks again, are far larger than this; other
# kernels, or sums in another order, differ by less.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
TOLERANCE_16 = 5e-2  # under autocast


def steps_for(run: Run, options: Options) -> Steps:
    """Choose how iterations are made.

    `auto` is a graph on one GPU. It is eager on a CPU, with several processes, with other optimisers than SGD, and
    after an attempt whose graph failed.
    """
    step = options.step
    if step == "auto" and options.graph_failure is not None:
        return Eager(f"eager ({options.graph_failure})")
    graph = options.device == "cuda" and options.devices_per_run == 1 and run.optimizer in CAPTURED
    if step == "eager" or (step == "auto" and not graph):
        return Eager()
    return CudaGraph(compiled=step == "compiled")


class CudaGraph:
    """Replays one iteration, captured as a CUDA graph, for each batch of a chunk.

    All kernels of an iteration are launched at once, on buffers whose addresses do not change: a chunk's images and
    labels, the index of the next batch, its loss and logits, and the learning rate. Each replay has its own dropout
    masks, because torch advances the GPU's generator by as much as an iteration draws.

    Under autocast, `HalfCopies` casts the weights.

    Before the graph is used, it repeats a few iterations that were made eagerly, at learning rate 0, and must give the
    same losses, gradients and momenta. On a CPU nothing is captured, and each replay computes the iteration again.

    The learning rate is float32 on a GPU, as torch's fused SGD requires: within 6e-8 of the run's.

    Args:
        compiled: whether torch.compile fuses the net's kernels first. The dropout masks stay those of the eager net.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self.name = "compiled" if compiled else "graph"
        self.compiled = compiled
        self.replay: Callable[[], Any] | None = None  # the first chunk makes it and the fields that follow in `prepare`
        self._rate_now = 0.0

    def __call__(self, module: Classifier, optimizer: Optimizer, chunk: Chunk) -> Tensor:
        """Make an iteration of each batch.

        Raises:
            GraphError: the graph cannot be captured, or its iterations differ from eager ones. This process must not
                train any further: torch 2.11 leaves the GPU's generator in the state of a capture.
        """
        length = len(chunk)
        images, labels = chunk.stacked()
        if self.replay is None:
            self.buffers = StaticBuffers(images, labels, length, chunk.max_length)
            self.buffers.fill(images, labels)
            self.replay = self.prepare(module, optimizer, min(CHECKED, length))
        self.buffers.fill(images, labels)
        for _ in range(length):
            self.set_rate(module.learning_rate(module.iteration))
            self.replay()
            module.finish_iteration()
        losses, size = self.buffers.losses[:length].clone(), self.buffers.labels.shape[1]
        module.add("train", losses.sum() * size, self.buffers.correct(length), length * size)
        return losses

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next replays."""
        if rate != self._rate_now:
            self.rate.fill_(rate)
            self._rate_now = rate

    def prepare(self, module: Classifier, optimizer: Optimizer, count: int) -> Callable[[], Any]:
        """Capture an iteration, and check that `count` replays agree with the same iterations made eagerly.

        Returns:
            What replays the iteration. The net, the optimiser and the random generators are as before.
        """
        device = module.device
        self.module, self.optimizer = module, optimizer
        self.rate = torch.zeros((), dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        self.net = module.net  # what the forward pass calls: the net, its twin, or that one compiled
        self.copies: HalfCopies | None = None
        for group in optimizer.param_groups:
            group["lr"] = self.rate
        for parameter in module.net.parameters():
            # SGD makes them in its first step, as copies of the gradients. From zeros it gets the same momenta.
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        before = SavedState(module.net, optimizer)
        try:
            losses, vector = self.trial(count)
            before.restore()
            if torch.is_autocast_enabled(device.type):
                self.copies = HalfCopies(module.net, torch.get_autocast_dtype(device.type))
                self.net = self.copies.net
            if self.compiled:
                self.net = _compile(self.net)
            self.trial(1)  # a capture needs everything to have run once before
            before.restore()
            replay = self.capture()
            self.check(replay, losses, vector)
        except Exception as error:
            first = first_error(error)
            if transient_kind(first) == MEMORY:
                raise first from None
            raise GraphError(self.name, first) from error
        before.restore()
        return replay

    def trial(self, count: int) -> tuple[Tensor, Tensor]:
        """Make the first iterations without a graph; return their losses, and the last gradients and momenta."""
        self.buffers.rewind()
        with _side_stream(self.module.device):
            for _ in range(count):
                self.iteration()
        return self.buffers.losses[:count].clone(), _vector([*self.gradients(), *self.momenta()])

    def iteration(self) -> None:
        """Make an iteration of the next batch."""
        self.optimizer.zero_grad()
        if self.copies is not None:
            self.copies.refresh()
        images, labels = self.buffers.batch()
        logits = self.net(images)
        loss = self.module.loss(logits, labels)
        self.buffers.keep(loss, logits)
        self.module.update(self.optimizer, loss, None if self.copies is None else self.copies.return_gradients)

    def capture(self) -> Callable[[], Any]:
        """Capture an iteration without running it; return what replays it."""
        if self.module.device.type != "cuda":
            return self.iteration
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()  # so that the gradients are allocated in the graph's memory
        with torch.cuda.graph(graph):
            self.iteration()
        return graph.replay

    def check(self, replay: Callable[[], Any], losses: Tensor, vector: Tensor) -> None:
        """Check that replays agree with eager iterations, and that one with learning rate 1 subtracts the momenta.

        Args:
            replay: repeats the captured iteration.
            losses: of the eager iterations.
            vector: the last gradients and momenta of the eager iterations.

        Raises:
            RuntimeError: they do not agree.
        """
        tolerance = TOLERANCES[vector.dtype] if self.copies is None else TOLERANCE_16
        self.buffers.rewind()
        for _ in range(len(losses)):
            replay()
        _agree("losses", self.buffers.losses[: len(losses)], losses, tolerance)
        _agree("gradients and momenta", _vector([*self.gradients(), *self.momenta()]), vector, tolerance)
        if self.module.run.momentum:
            weights = _vector(self.module.net.parameters())
            self.buffers.rewind()
            self.set_rate(1.0)
            replay()
            _agree("steps", weights - _vector(self.module.net.parameters()), _vector(self.momenta()), TOLERANCE_16)

    def gradients(self) -> list[Tensor]:
        """List the gradients of the net's weights."""
        return [parameter.grad for parameter in self.module.net.parameters() if parameter.grad is not None]

    def momenta(self) -> list[Tensor]:
        """List the momenta of the net's weights."""
        return [self.optimizer.state[parameter]["momentum_buffer"] for parameter in self.module.net.parameters()]


def _vector(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run the block on another stream, and wait for it; a CPU has only one."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _compile(net: nn.Module) -> nn.Module:
    """Let torch.compile fuse the kernels; all processes of the machine share its cache."""
    import torch._inductor.config as inductor  # `import torch` does not load it

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    inductor.fallback_random = True  # the same dropout masks as without
    return torch.compile(net, dynamic=False, fullgraph=True)  # type: ignore[return-value]


def _agree(name: str, ours: Tensor, eager: Tensor, tolerance: float) -> None:
    """Check that two vectors are finite at the same places, and agree there.

    Raises:
        RuntimeError: they do not.
    """
    finite = eager.isfinite()
    if not torch.equal(finite, ours.isfinite()):
        raise RuntimeError(f"its {name} are not finite where the eager ones are, or the other way round")
    a, b = ours[finite].double(), eager[finite].double()
    error = 0.0 if torch.equal(a, b) else float((a - b).norm() / b.norm())
    if not error <= tolerance:
        raise RuntimeError(f"its {name} differ from the eager ones by {error:.1g}, where {tolerance:g} is allowed")
