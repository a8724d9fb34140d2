"""The iterations of a chunk as replays of one iteration, captured as a CUDA graph."""

import contextlib
import os
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from replicate.data.cache import folder as cache_folder
from replicate.data.datamodule import Chunk
from replicate.training.static import Forward, Snapshot, Static, momenta
from replicate.training.steps import Eager, Steps, iteration, set_rate

if TYPE_CHECKING:
    from replicate.training.module import Classifier

Play = Callable[[], Any]

CHECKED = 3  # iterations that a graph repeats before it is trusted: with batches, masks and gradients of their own
# Relative. What a graph can get wrong, such as an old batch or the same masks again, is far beyond; kernels that are
# picked anew, or sum in another order, stay within.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}
TOLERANCE_16 = 5e-2  # under autocast


def steps_for(step: str, device: str, processes: int) -> Steps:
    """Choose how iterations are made.

    Args:
        step: one of options.STEPS.
        device: `cpu`, `cuda` or `mps`.
        processes: that train the run together; several sum up their gradients eagerly.
    """
    if step == "eager" or (step == "auto" and (device != "cuda" or processes > 1)):
        return Eager()
    return Graph(compiled=step == "compiled", required=step != "auto")


class Graph:
    """Replays one iteration, captured as a CUDA graph, for each batch of a chunk.

    All that an iteration launches, some 350 kernels for FitNet-4, is launched at once, on buffers that stay where they
    are: a chunk's images and labels, a counter that says which batch is next, and sums. The learning rate is part of
    the graph, so a milestone has another one captured. The dropout masks of each replay are its own: torch moves the
    GPU's generator on by as much as an iteration draws.

    Before a graph is used it repeats a few iterations that were made eagerly, at learning rate 0, and must come to the
    same losses and momenta. On a CPU all is the same but for the capture: there the iteration is carried out anew.

    Args:
        compiled: whether torch.compile fuses the net's kernels before. The dropout masks stay those of the eager net.
        required: whether a graph that cannot be had is an error; else training goes on eagerly, and `name` says why.
    """

    def __init__(self, *, compiled: bool = False, required: bool = True) -> None:
        self.name = "compiled" if compiled else "graph"
        self.compiled, self.required = compiled, required
        self._instead: Eager | None = None
        self._static: Static | None = None
        self._captured: tuple[float, Play] | None = None

    def __call__(self, module: "Classifier", optimizer: Optimizer, chunk: Chunk) -> Tensor:
        """Make an iteration of each batch.

        Raises:
            RuntimeError: the graph does not repeat what is done without it; or as torch says why it cannot be captured.
        """
        if self._instead:
            return self._instead(module, optimizer, chunk)
        length = len(chunk)
        images, labels = chunk.stacked()
        if self._static is None:
            static = Static(images, labels, length, chunk.max_length)
            static.fill(images, labels)
            before = Snapshot(module, optimizer)
            try:
                self._check(module, optimizer, static, before, min(CHECKED, length))
            except Exception as error:
                if self.required:
                    raise
                reason = str(error).strip() or type(error).__name__
                self.name = f"eager ({self.name}: {reason.splitlines()[0][:200]})"
                print(f"trained {self.name}")
                self._instead = Eager()
            before.restore(module, optimizer)
            if self._instead:
                batches = zip(images.chunk(length), labels.chunk(length), strict=True)
                return self._instead(module, optimizer, batches)
            self._static = static
        return self._replayed(module, optimizer, self._static, images, labels, length)

    def _replayed(
        self,
        module: "Classifier",
        optimizer: Optimizer,
        static: Static,
        images: Tensor,
        labels: Tensor,
        length: int,
    ) -> Tensor:
        static.fill(images, labels)
        for rate, replays in groupby(module.learning_rate(module.iteration + done) for done in range(length)):
            if self._captured is None or self._captured[0] != rate:
                self._captured = None  # its memory is the new one's
                self._captured = rate, _capture(module, optimizer, static, rate)
            for _ in replays:
                self._captured[1]()
        module.iteration += length
        module.add("train", static.sums)
        return static.losses[:length].clone()

    def _check(self, module: "Classifier", optimizer: Optimizer, static: Static, before: Snapshot, count: int) -> None:
        """Compile the net if that is asked for, and compare a few replays with the same iterations made eagerly."""
        for parameter in module.net.parameters():
            # SGD makes them in its first step, as copies of the gradients: to which zeros lead as well.
            optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        set_rate(optimizer, 0.0)
        with _beside(static.at.device):  # capturing asks that all was carried out before, on another stream
            for _ in range(count):
                _once(module, optimizer, static)
        eager = static.losses[:count].clone(), momenta(module, optimizer)
        if self.compiled:
            static.forward = _compile(module.net)
            before.restore(module, optimizer)
            static.rewind()
            with _beside(static.at.device):
                _once(module, optimizer, static)
        before.restore(module, optimizer)
        static.rewind()
        play = _capture(module, optimizer, static, 0.0)
        for _ in range(count):
            play()
        tolerance = TOLERANCES[eager[1].dtype]
        if torch.is_autocast_enabled(static.at.device.type):
            tolerance = TOLERANCE_16
        _compare("losses", static.losses[:count], eager[0], tolerance)
        _compare("gradients", momenta(module, optimizer), eager[1], tolerance)


def _once(module: "Classifier", optimizer: Optimizer, static: Static) -> None:
    """Make an iteration of the batch that is next."""

    def forward() -> Tensor:
        loss, sums = module.measure(static.batch(), static.forward)
        static.sums += sums
        return loss

    static.keep(iteration(module, optimizer, forward))


def _capture(module: "Classifier", optimizer: Optimizer, static: Static, rate: float) -> Play:
    """Capture an iteration at a learning rate. Nothing is carried out yet."""

    def play() -> None:
        set_rate(optimizer, rate)
        _once(module, optimizer, static)

    if static.at.device.type != "cuda":
        return play
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()  # the gradients' places are to be the graph's
    with torch.cuda.graph(graph):
        play()
    return graph.replay


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Carry out on another stream, and wait for it; on a CPU there is only one."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def _compile(net: nn.Module) -> Forward:
    """Have torch.compile fuse what it can; all processes of the machine share what it has made."""
    import torch._inductor.config as inductor  # torch alone does not bring it

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    inductor.fallback_random = True  # the same dropout masks as without
    compiled: Forward = torch.compile(net, dynamic=False, fullgraph=True)
    return compiled


def _compare(name: str, ours: Tensor, eager: Tensor, tolerance: float) -> None:
    """Have two results agree, as vectors, where they are finite.

    Raises:
        RuntimeError: they do not.
    """
    finite = eager.isfinite() & ours.isfinite()
    error = float((ours - eager)[finite].norm() / eager[finite].norm()) if finite.any() else 0.0
    if error > tolerance or not torch.equal(eager.isfinite(), ours.isfinite()):
        raise RuntimeError(f"its {name} differ from the eager ones by {error:.1g}, where {tolerance:g} is allowed")
