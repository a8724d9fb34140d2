"""Replayed iterations on a CPU, where all but the capture is the same; on a GPU, the capture as well."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from replicate.data.datamodule import DeviceData
from replicate.errors import GraphError
from replicate.nn.activations import ACTIVATIONS, Maxout
from replicate.nn.fitnet import FITNET4, build
from replicate.options import Options
from replicate.run import Run
from replicate.training import cuda_graph as graph_module
from replicate.training.cuda_graph import CudaGraph, steps_for
from replicate.training.module import Classifier, DivergedError, Eager, Steps
from replicate.training.static_buffers import Snapshot, StaticBuffers

RUN = Run("lsuv", "relu", batch_size=16, iterations=20, milestones=(3, 10), lr=0.05, pad=1)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> None:
    """Forget what other tests compiled: torch compiles a function of many classes only so often in a process."""
    torch._dynamo.reset()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(device: str, chunk: int = 7, bad: int | None = None) -> DeviceData:
    """Twenty batches of 16, in chunks that the rows of the curve cut; `bad`: an image that is not finite."""
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


class Rows(pl.Callback):
    """The training sums at each row of the curve."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float]] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rows.append(pl_module.take("train"))


def train(
    steps: Steps, device: str = "cpu", chunk: int = 7, precision: Any = "32-true", bad: int | None = None, **change: Any
) -> tuple[Classifier, list[tuple[float, float]]]:
    batches, rows = data(device, chunk, bad), Rows()
    model = Classifier(net(), replace(RUN, **change), steps=steps)
    torch.manual_seed(5)
    trainer = pl.Trainer(
        accelerator=device,
        devices=1,
        max_epochs=len(batches.epoch_ends),
        reload_dataloaders_every_n_epochs=1,
        precision=precision,
        callbacks=[rows],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    try:
        trainer.fit(model, datamodule=batches)
    except DivergedError:
        rows.rows.append((math.nan, math.nan))
    return model, rows.rows


def weights(model: Classifier) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.net.parameters()])


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_replays_are_the_same_training_whatever_the_chunks(chunk: int, precision: str) -> None:
    eager, theirs = train(Eager(), precision=precision)
    model, ours = train(CudaGraph(), chunk=chunk, precision=precision)
    assert model.iteration == eager.iteration == 20
    assert torch.equal(weights(model), weights(eager))  # dropout on, milestones within chunks
    assert ours == [pytest.approx(row, rel=1e-12) for row in theirs]  # summed a chunk at a time
    assert len(ours) == 4  # 7, 13, 19, 20: a row for each pass over the images, and the last


def test_clipping_is_part_of_an_iteration() -> None:
    clipped, unclipped = (train(CudaGraph(), clip_norm=norm)[0] for norm in (0.1, None))
    assert torch.equal(weights(clipped), weights(train(Eager(), clip_norm=0.1)[0]))
    assert not torch.equal(weights(clipped), weights(unclipped))


def test_a_loss_that_is_not_finite_ends_training_where_it_does_eagerly() -> None:
    for bad in (0, 50):  # wherever the permutation puts them: within a chunk, and in the part that is compared
        eager, _ = train(Eager(), bad=bad)
        model, rows = train(CudaGraph(), bad=bad)
        assert model.iteration == eager.iteration < 7
        assert math.isnan(rows[-1][0])
        assert model.steps.name == "graph"  # the same NaN in both is no reason against the graph


def test_the_trial_leaves_nothing_behind() -> None:
    module = Classifier(net(), RUN)
    optimizer = module.configure_optimizers()
    chunk = next(iter(data("cpu").train_dataloader()))
    images, labels = chunk.stacked()
    buffers = StaticBuffers(images, labels, len(chunk), chunk.max_length)
    buffers.fill(images, labels)
    before, state = weights(module), torch.get_rng_state()
    CudaGraph()._prepare(module, optimizer, buffers, 3)
    assert len(set(buffers.losses[:3].tolist())) == 3  # it has made iterations
    assert torch.equal(before, weights(module))
    assert torch.equal(state, torch.get_rng_state())
    assert all(not one["momentum_buffer"].any() for one in optimizer.state.values())
    assert all(parameter.grad is None for parameter in module.net.parameters())


class Recorder(TorchDispatchMode):
    """What a capture is to a GPU: the operations and the places of their tensors, without what Python knew meanwhile.

    Refuses what a graph cannot hold: the host reading from the device, tensors made of the host's numbers.
    """

    REFUSED = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} cannot be captured"
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [leaf.detach() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.operations.append((func, args, kwargs or {}, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, places in self.operations:
            made = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for place, tensor in zip(places, made, strict=True):
                if place.data_ptr() != tensor.data_ptr():
                    place.copy_(tensor)


def recorded(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture on a CPU. Here it carries the iteration out, which a GPU does not, so it is undone."""
    for group in optimizer.param_groups:
        group["fused"] = True  # as on a GPU: the loop over the weights would read the learning rate
    before = Snapshot(module, optimizer)
    with Recorder() as recorder:
        graph._iteration(module, optimizer, buffers)
    gradients = [parameter.grad for parameter in module.net.parameters()]
    before.restore(module, optimizer)
    for parameter, gradient in zip(module.net.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return recorder.replay


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_operations_alone_are_the_same_training(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, theirs = train(Eager(), precision=precision)
    monkeypatch.setattr(CudaGraph, "_capture", recorded)
    model, ours = train(CudaGraph(), precision=precision)
    # A fused step rounds elsewhere than the loop over the weights.
    assert torch.allclose(weights(model), weights(eager), rtol=1e-5, atol=1e-7)
    assert ours == [pytest.approx(row, rel=1e-5) for row in theirs]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_in_an_iteration_waits_for_the_host_and_nothing_moves(activation: str, precision: str) -> None:
    made = build(FITNET4, ACTIVATIONS[activation], width=0.125).to(memory_format=torch.channels_last)
    module = Classifier(made, replace(RUN, clip_norm=1.0))
    optimizer = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["fused"] = True  # as on a GPU: the loop over the weights would read the learning rate
    images = torch.randn(3 * 4, 3, 32, 32, generator=seeded(1)).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (3 * 4,), generator=seeded(2))
    buffers = StaticBuffers(images, labels, 3, 3)
    buffers.fill(images, labels)
    graph = CudaGraph()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
        graph._prepare(module, optimizer, buffers, 2)
        assert graph._replay is not None
        assert buffers.logits is not None
        graph._set_rate(0.1)
        buffers.rewind()
        buffers.losses.zero_()
        kept = [*made.parameters(), *(one["momentum_buffer"] for one in optimizer.state.values())]
        kept += [buffers.index, buffers.losses, buffers.logits]
        places, values = [tensor.data_ptr() for tensor in kept], [tensor.detach().clone() for tensor in kept]
        with Recorder():
            graph._replay()
    assert [tensor.data_ptr() for tensor in kept] == places
    changed = [not torch.equal(now, before) for now, before in zip(kept, values, strict=True)]
    assert sum(changed) > len(kept) / 2  # where hardly a gradient arrives, weights may stay
    assert changed[-3:] == [True, True, True]
    assert buffers.images.is_contiguous()
    buffers.rewind()
    assert buffers.batch()[0].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="_local_scalar_dense cannot be captured"), Recorder():
        buffers.losses[0].item()


real_capture = CudaGraph._capture


def stuck(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture whose replays see the first batch again and again."""
    replay = real_capture(graph, module, optimizer, buffers)

    def again() -> None:
        buffers.labels[1:], buffers.images[1:] = buffers.labels[:1], buffers.images[:1]
        replay()

    return again


def same_masks(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture whose replays draw the same dropout masks each time."""
    replay, state = real_capture(graph, module, optimizer, buffers), torch.get_rng_state()

    def again() -> None:
        torch.set_rng_state(state)
        replay()

    return again


def old_rate(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture that keeps the learning rate of its beginning."""
    rate = graph._rate.item()
    replay = real_capture(graph, module, optimizer, buffers)

    def again() -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        replay()

    return again


def not_numbers(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture whose momenta are not numbers."""
    replay = real_capture(graph, module, optimizer, buffers)

    def again() -> None:
        replay()
        for momentum in optimizer.state.values():
            momentum["momentum_buffer"].fill_(math.nan)

    return again


def impossible(graph: CudaGraph, module: Any, optimizer: Any, buffers: StaticBuffers) -> Any:
    """A capture that fails as torch's does: what went wrong first is the context of what went wrong at the end."""
    try:
        raise RuntimeError("operation not permitted when stream is capturing\nand more of it")
    finally:
        raise RuntimeError("capture_end: the capture was invalidated")


WRONG = [
    (stuck, "its losses differ from the eager ones by "),
    (same_masks, "its losses differ from the eager ones by "),
    (old_rate, "its steps differ from the eager ones by 1"),
    (not_numbers, "its losses are not finite where the eager ones are"),
    (impossible, "operation not permitted when stream is capturing$"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_a_graph_that_is_wrong_is_not_used(wrong: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaGraph, "_capture", wrong)
    with pytest.raises(GraphError, match=f"^graph: {reason}"):
        train(CudaGraph())


def test_a_full_memory_is_no_fault_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("capture_end: the capture was invalidated")

    monkeypatch.setattr(CudaGraph, "_capture", full)
    with pytest.raises(torch.OutOfMemoryError):
        train(CudaGraph())


def test_one_capture_serves_all_learning_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    captures = []

    def counted(*arguments: Any) -> Any:
        captures.append(arguments)
        return real_capture(*arguments)

    monkeypatch.setattr(CudaGraph, "_capture", counted)
    model, _ = train(CudaGraph())
    assert len(captures) == 1
    assert model.optimizer.param_groups[0]["lr"] == pytest.approx(model.learning_rate(19), rel=1e-12)


def test_without_momentum_the_gradients_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, _ = train(Eager(), momentum=0.0)
    assert torch.equal(weights(train(CudaGraph(), momentum=0.0)[0]), weights(eager))


def test_an_autocast_that_keeps_its_casts_is_refused() -> None:
    module = Classifier(net(), RUN)
    chunk = next(iter(data("cpu").train_dataloader()))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(GraphError, match="autocast keeps its copies"):
        CudaGraph()(module, module.configure_optimizers(), chunk)


def test_weights_and_momenta_of_different_layout_are_refused() -> None:
    module = Classifier(net().to(memory_format=torch.channels_last), RUN)
    optimizer = module.configure_optimizers()
    weight = module.net.get_parameter("1.weight")
    optimizer.state[weight]["momentum_buffer"] = torch.zeros(weight.shape)
    with pytest.raises(GraphError, match=r"1\.weight, their gradients and their momenta differ in layout"):
        CudaGraph()(module, optimizer, next(iter(data("cpu").train_dataloader())))


def test_vectors_agree_or_not() -> None:
    nan, inf, one = torch.tensor([math.nan, 1.0]), torch.tensor([math.inf, 1.0]), torch.tensor([1.0, 1.0])
    agree = graph_module._agree
    agree("losses", nan, nan, 1e-3)
    agree("losses", nan, inf, 1e-3)  # both not finite, at the same place
    agree("losses", torch.zeros(2), torch.zeros(2), 1e-3)
    agree("losses", torch.full((2,), 3e38), torch.full((2,), 3e38) * (1 - 1e-6), 1e-3)  # float32 norms are infinite
    agree("losses", one, one + 1e-4, 1e-3)
    for ours, theirs in ((nan, one), (one, inf)):
        with pytest.raises(RuntimeError, match="its losses are not finite where"):
            agree("losses", ours, theirs, 1e-3)
    for ours, theirs in ((one, torch.zeros(2)), (one, one + 0.01)):
        with pytest.raises(RuntimeError, match="its losses differ"):
            agree("losses", ours, theirs, 1e-3)


def test_which_steps_are_made_where(tmp_path: Path) -> None:
    def steps(step: str, device: str, processes: int = 1, failure: str | None = None) -> Steps:
        return steps_for(Options(tmp_path, step=step, device=device, devices_per_run=processes, graph_failure=failure))

    assert isinstance(steps("auto", "cpu"), Eager)
    assert isinstance(steps("eager", "cuda"), Eager)
    assert isinstance(steps("auto", "cuda", 2), Eager)
    assert isinstance(steps("auto", "cuda"), CudaGraph)
    assert isinstance(steps("compiled", "cuda"), CudaGraph)
    again = steps("auto", "cuda", failure="graph: its losses differ")
    assert isinstance(again, Eager)
    assert again.name == "eager (graph: its losses differ)"
    assert steps("graph", "cuda", failure="graph: its losses differ").name == "graph"
    assert steps("compiled", "cuda").name == "compiled"


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_torch_compile_can_follow_every_net_and_its_masks_are_the_same(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tracing and the differentiation are those of the real thing; its kernels, made by a C++ compiler in half a
    # minute, are left out.
    monkeypatch.setattr(graph_module, "_compile", lambda net: torch.compile(net, backend="aot_eager", fullgraph=True))
    eager, _ = train(Eager(), precision=precision)
    for chunk in (1, 7):
        model, _ = train(CudaGraph(compiled=True), chunk=chunk, precision=precision)
        assert model.steps.name == "compiled"
        assert torch.allclose(weights(model), weights(eager), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_can_be_compiled_whole(activation: str) -> None:
    made = ACTIVATIONS[activation]
    layer = made.module(made.conv_pieces)
    x = torch.randn(2, 4 * made.conv_pieces, 3, 3, generator=seeded(1), requires_grad=True)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    both = []
    for forward in (layer, compiled):
        out = forward(x)
        both.append((out, *torch.autograd.grad(out.square().sum(), [x])))
    assert torch.equal(both[0][0], both[1][0])
    assert torch.allclose(both[0][1], both[1][1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_captured_replays_are_the_same_training(compiled: bool, precision: str, tmp_path: Path) -> None:
    eager, _ = train(Eager(), "cuda", precision=precision)
    model, _ = train(CudaGraph(compiled=compiled), "cuda", precision=precision)
    difference = (weights(model) - weights(eager)).norm() / weights(eager).norm()
    assert difference < (1e-4 if precision == "32-true" else 2e-2)
