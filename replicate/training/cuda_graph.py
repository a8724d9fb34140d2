"""The iterations of a chunk as replays of one iteration, captured as a CUDA graph."""

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
from replicate.training.half_copies import HalfCopies
from replicate.training.module import Classifier, Eager, Steps, iteration
from replicate.training.static_buffers import Snapshot, StaticBuffers

CHECKED = 3  # iterations that a graph repeats before it is used: with batches, masks and gradients of their own
# Relative. What a graph can get wrong, such as an old batch or the same masks again, is far beyond; kernels that are
# chosen differently, or sum in another order, stay within.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
TOLERANCE_16 = 5e-2  # under autocast


def steps_for(options: Options) -> Steps:
    """Choose how iterations are made.

    `auto` is a graph on one GPU; several processes sum their gradients eagerly, and so does a run whose graph failed.
    """
    step = options.step
    if step == "auto" and options.graph_failure is not None:
        return Eager(f"eager ({options.graph_failure})")
    if step == "eager" or (step == "auto" and (options.device != "cuda" or options.devices_per_run > 1)):
        return Eager()
    return CudaGraph(compiled=step == "compiled")


class CudaGraph:
    """Replays one iteration, captured as a CUDA graph, for each batch of a chunk.

    All kernels of an iteration are launched at once, on buffers whose addresses do not change: a chunk's images and
    labels, the index of the next batch, its loss and logits, and the learning rate. The dropout masks of each replay
    are its own: torch advances the GPU's generator by as much as an iteration draws.

    Under autocast the weights are cast by `HalfCopies`.

    Before the graph is used it repeats a few iterations that were made eagerly, at learning rate 0, and must come to
    the same losses, gradients and momenta. On a CPU nothing is captured, and each replay computes the
    iteration again.

    The learning rate is float32 on a GPU, as torch's fused SGD wants it: within 6e-8 of what is asked for.

    Args:
        compiled: whether torch.compile fuses the net's kernels first. The dropout masks stay those of the eager net.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self.name = "compiled" if compiled else "graph"
        self.compiled = compiled
        self._buffers: StaticBuffers | None = None
        self._copies: HalfCopies | None = None
        self._net: nn.Module | None = None  # what the forward pass calls: the net, its twin, or that one compiled
        self._rate, self._rate_now = torch.zeros(()), 0.0  # the learning rate: what the graph reads, and its value
        self._replay: Callable[[], Any] | None = None

    def __call__(self, module: Classifier, optimizer: Optimizer, chunk: Chunk) -> Tensor:
        """Make an iteration of each batch.

        Raises:
            GraphError: the graph cannot be captured, or does not repeat what is done without it. The process cannot be
                trusted to train from then on: torch 2.11 leaves the GPU's generator in the state of a capture.
        """
        length = len(chunk)
        images, labels = chunk.stacked()
        if self._buffers is None or self._replay is None:
            self._buffers = StaticBuffers(images, labels, length, chunk.max_length)
            self._buffers.fill(images, labels)
            self._prepare(module, optimizer, self._buffers, min(CHECKED, length))
        assert self._replay is not None
        self._buffers.fill(images, labels)
        for done in range(length):
            self._set_rate(module.learning_rate(module.iteration + done))
            self._replay()
        module.iteration += length
        losses, size = self._buffers.losses[:length].clone(), self._buffers.labels.shape[1]
        module.add("train", losses.sum() * size, self._buffers.correct(length), length * size)
        return losses

    def _set_rate(self, rate: float) -> None:
        if rate != self._rate_now:
            self._rate.fill_(rate)
            self._rate_now = rate

    def _prepare(self, module: Classifier, optimizer: Optimizer, buffers: StaticBuffers, count: int) -> None:
        """Capture an iteration, and see that a few replays agree with the same iterations made eagerly."""
        device = module.device
        self._rate = torch.zeros((), dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        self._rate_now = 0.0
        for group in optimizer.param_groups:
            group["lr"] = self._rate
        for parameter in module.net.parameters():
            # SGD makes them in its first step, as copies of the gradients: to which zeros lead as well.
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        before = Snapshot(module, optimizer)
        try:
            self._net = module.net
            eager = self._trial(module, optimizer, buffers, count)
            before.restore(module, optimizer)
            if torch.is_autocast_enabled(device.type):
                if torch.is_autocast_cache_enabled():
                    raise RuntimeError("autocast keeps its copies of the weights, which replays would not renew")
                self._copies = HalfCopies(module.net, torch.get_autocast_dtype(device.type))
                self._net = self._copies.net
            if self.compiled:
                self._net = _compile(self._net)
            self._trial(module, optimizer, buffers, 1)  # a capture wants everything to have been carried out before
            before.restore(module, optimizer)
            self._replay = self._capture(module, optimizer, buffers)
            buffers.rewind()
            for _ in range(count):
                self._replay()
            self._compare(module, optimizer, buffers, eager)
        except Exception as error:
            first = first_error(error)
            if transient_kind(first) == MEMORY:
                raise first from None
            raise GraphError(self.name, first) from error
        before.restore(module, optimizer)

    def _trial(
        self, module: Classifier, optimizer: Optimizer, buffers: StaticBuffers, count: int
    ) -> tuple[Tensor, Tensor]:
        """Make the first iterations without a graph; return their losses, and the last gradients and momenta."""
        buffers.rewind()
        with _side_stream(module.device):
            for _ in range(count):
                self._iteration(module, optimizer, buffers)
        return buffers.losses[:count].clone(), _gradients_and_momenta(module, optimizer)

    def _iteration(self, module: Classifier, optimizer: Optimizer, buffers: StaticBuffers) -> None:
        """Make an iteration of the next batch."""

        def forward() -> Tensor:
            assert self._net is not None
            images, labels = buffers.batch()
            logits = self._net(images)
            loss = module.loss(logits, labels)
            buffers.keep(loss, logits)
            return loss

        iteration(module, optimizer, forward, self._copies)

    def _capture(self, module: Classifier, optimizer: Optimizer, buffers: StaticBuffers) -> Callable[[], Any]:
        """Capture an iteration. Nothing is carried out yet."""
        if module.device.type != "cuda":
            return lambda: self._iteration(module, optimizer, buffers)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad()  # the gradients are to have their places in the graph's memory
        with torch.cuda.graph(graph):
            self._iteration(module, optimizer, buffers)
        return graph.replay

    def _compare(
        self, module: Classifier, optimizer: Optimizer, buffers: StaticBuffers, eager: tuple[Tensor, Tensor]
    ) -> None:
        """Compare the replays with the eager iterations, and the step of one more with its learning rate.

        Raises:
            RuntimeError: they do not agree, or tensors differ in layout, for which torch takes slow kernels.
        """
        losses, vector = eager
        tolerance = TOLERANCES[vector.dtype] if self._copies is None else TOLERANCE_16
        _agree("losses", buffers.losses[: len(losses)], losses, tolerance)
        _agree("gradients and momenta", _gradients_and_momenta(module, optimizer), vector, tolerance)
        for name, parameter in module.net.named_parameters():
            momentum = optimizer.state[parameter]["momentum_buffer"]
            if parameter.grad is not None and not parameter.stride() == parameter.grad.stride() == momentum.stride():
                raise RuntimeError(f"the weights {name}, their gradients and their momenta differ in layout")
        if not module.run.momentum:
            return
        weights = _vector(module.net.parameters())
        buffers.rewind()
        self._set_rate(1.0)
        assert self._replay is not None
        self._replay()
        _agree("steps", weights - _vector(module.net.parameters()), _vector(_momenta(module, optimizer)), TOLERANCE_16)


def _gradients_and_momenta(module: Classifier, optimizer: Optimizer) -> Tensor:
    gradients = [parameter.grad for parameter in module.net.parameters() if parameter.grad is not None]
    return _vector([*gradients, *_momenta(module, optimizer)])


def _momenta(module: Classifier, optimizer: Optimizer) -> list[Tensor]:
    return [optimizer.state[parameter]["momentum_buffer"] for parameter in module.net.parameters()]


def _vector(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@contextlib.contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Carry out on another stream, and wait for it; on a CPU there is only one."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _compile(net: nn.Module) -> nn.Module:
    """Have torch.compile fuse what it can; all processes of the machine share what it has made."""
    import torch._inductor.config as inductor  # torch alone does not bring it

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    inductor.fallback_random = True  # the same dropout masks as without
    compiled: nn.Module = torch.compile(net, dynamic=False, fullgraph=True)  # type: ignore[assignment]
    return compiled


def _agree(name: str, ours: Tensor, eager: Tensor, tolerance: float) -> None:
    """See that two vectors agree where they are finite, and are finite at the same places.

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
