"""Replayed iterations: on a CPU everything but the capture, on a GPU the capture as well."""

import contextlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.fitting import fit, seeded
from training.graphs import Recorder, prepared

from replicate.data.datamodule import Chunk, DeviceData
from replicate.errors import GraphError
from replicate.nn.activations import Maxout
from replicate.options import Options
from replicate.run import Run
from replicate.training import cuda_graph as graph_module
from replicate.training.cuda_graph import CudaGraph, steps_for
from replicate.training.module import Classifier, DivergedError, Eager, Steps
from replicate.training.static_buffers import SavedState

RUN = Run("lsuv", "relu", batch_size=16, iterations=20, milestones=(3, 10), lr=0.05, pad=1)


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    """Forget what other tests compiled: torch compiles a function only a few times in a process."""
    torch._dynamo.reset()


def data(device: str = "cpu", chunk: int = 7, bad: int | None = None) -> DeviceData:
    """Twenty batches of 16, in chunks that end at the rows of the curve too; `bad`: an image that is not finite."""
    images = torch.randn(100, 3, 8, 8, generator=seeded(1))
    if bad is not None:
        images[bad] = math.nan
    labels = torch.randint(10, (100,), generator=seeded(2))
    made = DeviceData((images, labels), (images[:10], labels[:10]), RUN, seeded(3), device)
    made.chunk = chunk
    return made


def net() -> nn.Module:
    torch.manual_seed(4)
    layers = [nn.Dropout(0.2), nn.Conv2d(3, 8, 3, padding=1), Maxout(2), nn.MaxPool2d(8), nn.Flatten()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(4, 10))


def train(steps: Steps, device: str = "cpu", chunk: int = 7, bad: int | None = None, **change: Any) -> Classifier:
    model = Classifier(net(), replace(RUN, **{"precision": "32-true", **change}), steps=steps)
    torch.manual_seed(5)
    with contextlib.suppress(DivergedError):
        fit(model, data(device, chunk, bad))
    return model


def weights(model: Classifier) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.net.parameters()])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_replays_are_the_same_training_whatever_the_chunks(chunk: int, precision: str) -> None:
    eager, model = train(Eager(), precision=precision), train(CudaGraph(), chunk=chunk, precision=precision)
    assert model.iteration == eager.iteration == 20
    assert torch.equal(weights(model), weights(eager))  # with dropout, and milestones within chunks
    assert model.take("train") == pytest.approx(eager.take("train"), rel=1e-12)  # summed one chunk at a time


@pytest.mark.parametrize("change", [{"clip_norm": 0.1}, {"momentum": 0.0}])
def test_clipping_and_momentum_are_part_of_an_iteration(change: dict[str, Any]) -> None:
    changed = weights(train(CudaGraph(), **change))
    assert torch.equal(changed, weights(train(Eager(), **change)))
    assert not torch.equal(changed, weights(train(CudaGraph())))


@pytest.mark.parametrize("bad", [0, 50])  # within a chunk, and in the part that is compared, where both have the NaN
def test_a_loss_that_is_not_finite_ends_training_where_it_does_eagerly(bad: int) -> None:
    before = next(number for number, (images, _) in enumerate(data(bad=bad).batches) if images.isnan().any())
    assert 0 < before < 7
    for steps, chunk in ((Eager(), 1), (Eager(), 7), (CudaGraph(), 7)):
        assert train(steps, chunk=chunk, bad=bad).iteration == before


def test_the_check_leaves_no_trace() -> None:
    module = Classifier(net(), RUN)
    before, state = weights(module), torch.get_rng_state()
    graph = prepared(module, *Chunk(data(), 3).stacked(), 3)
    assert len(set(graph.buffers.losses.tolist())) == 3  # it has made iterations
    assert torch.equal(before, weights(module))
    assert torch.equal(state, torch.get_rng_state())
    assert not any(momentum.any() for momentum in graph.momenta())
    assert not graph.gradients()


def recorded(graph: CudaGraph) -> Any:
    """A capture on a CPU. Here it runs the iteration, which a GPU does not, so it is undone."""
    for group in graph.optimizer.param_groups:
        group["fused"] = True  # as on a GPU: the loop over the weights would read the learning rate
    before = SavedState(graph.module.net, graph.optimizer)
    with Recorder() as recorder:
        graph.iteration()
    gradients = [parameter.grad for parameter in graph.module.net.parameters()]
    before.restore()
    for parameter, gradient in zip(graph.module.net.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return recorder.replay


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_recorded_operations_are_the_same_training(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = train(Eager(), precision=precision)
    monkeypatch.setattr(CudaGraph, "capture", recorded)
    model = train(CudaGraph(), precision=precision)
    # A fused step rounds elsewhere than the loop over the weights.
    assert torch.allclose(weights(model), weights(eager), rtol=1e-5, atol=1e-7)
    assert model.take("train") == pytest.approx(eager.take("train"), rel=1e-5)


def slip(before: Any, after: Any = lambda graph: None) -> Any:
    """A capture whose replays do something else before or after the iteration."""

    def replay(graph: CudaGraph) -> None:
        before(graph)
        graph.iteration()
        after(graph)

    return lambda graph: partial(replay, graph)


def old_rate(graph: CudaGraph) -> None:
    for group in graph.optimizer.param_groups:
        group["lr"] = 0.0  # as at the capture


def not_numbers(graph: CudaGraph) -> None:
    for momentum in graph.momenta():
        momentum.fill_(math.nan)


def failing(error: Exception) -> Any:
    """A capture that fails as torch's does: the first error is the context of the last one."""

    def capture(graph: CudaGraph) -> Any:
        try:
            raise error
        finally:
            raise RuntimeError("capture_end: the capture was invalidated")

    return capture


CAPTURING = RuntimeError("operation not permitted when stream is capturing\nand more of it")
WRONG = [
    (slip(lambda graph: torch.manual_seed(1)), GraphError, "^graph: its losses differ from the eager ones by "),
    (slip(old_rate), GraphError, "^graph: its steps differ from the eager ones by 1"),
    (slip(lambda graph: None, not_numbers), GraphError, "^graph: its losses are not finite where the eager ones are"),
    (failing(CAPTURING), GraphError, "^graph: operation not permitted when stream is capturing$"),
    # A full memory is not the graph's fault.
    (failing(torch.OutOfMemoryError("CUDA out of memory")), torch.OutOfMemoryError, "CUDA out of memory"),
]


@pytest.mark.parametrize(("wrong", "error", "reason"), WRONG)
def test_a_graph_that_is_wrong_is_not_used(
    wrong: Any, error: type[Exception], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaGraph, "capture", wrong)
    with pytest.raises(error, match=reason):
        train(CudaGraph())


def test_large_vectors_may_agree() -> None:
    large = torch.full((2,), 3e38)  # its norm in float32 is infinite
    graph_module._agree("losses", large, large * (1 - 1e-6), 1e-3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("eager", {"step": "auto"}),
        ("eager", {"step": "auto", "device": "cuda", "devices_per_run": 2}),
        ("eager (graph: its losses differ)", {"device": "cuda", "graph_failure": "graph: its losses differ"}),
        ("graph", {"step": "auto", "device": "cuda"}),
        ("compiled", {"step": "compiled", "device": "cuda", "graph_failure": "graph: its losses differ"}),
    ],
)
def test_which_steps_are_made_where(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    steps = steps_for(Run("lsuv", "relu"), Options(tmp_path, **settings))
    assert (steps.name, type(steps)) == (name, Eager if name.startswith("eager") else CudaGraph)


def test_only_sgd_is_captured(tmp_path: Path) -> None:
    names = {
        name: steps_for(Run("lsuv", "relu", optimizer=name, momentum=momentum), Options(tmp_path, device="cuda")).name
        for name, momentum in (("sgd", 0.9), ("nesterov", 0.9), ("rmsprop", 0.0), ("adam", 0.9))
    }
    assert names == {"sgd": "graph", "nesterov": "eager", "rmsprop": "eager", "adam": "eager"}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_torch_compile_can_follow_every_net_and_its_masks_are_the_same(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tracing and the differentiation are those of torch.compile's default; only its kernels are missing, which a
    # C++ compiler would need half a minute to make.
    monkeypatch.setattr(graph_module, "_compile", lambda net: torch.compile(net, backend="aot_eager", fullgraph=True))
    model = train(CudaGraph(compiled=True), precision=precision)
    assert model.steps.name == "compiled"
    assert torch.allclose(weights(model), weights(train(Eager(), precision=precision)), rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_captured_replays_are_the_same_training(compiled: bool, precision: str, tmp_path: Path) -> None:
    eager = train(Eager(), "cuda", precision=precision)
    model = train(CudaGraph(compiled=compiled), "cuda", precision=precision)
    difference = (weights(model) - weights(eager)).norm() / weights(eager).norm()
    assert difference < (1e-4 if precision == "32-true" else 2e-2)
