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

from replicate.data.datamodule import DeviceData
from replicate.nn.activations import ACTIVATIONS, Maxout
from replicate.nn.fitnet import FITNET4, build
from replicate.run import Run
from replicate.training import graph as graph_module
from replicate.training.graph import Graph, steps_for
from replicate.training.module import Classifier, DivergedError
from replicate.training.static import Snapshot, Static
from replicate.training.steps import Eager, Steps

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
    model, ours = train(Graph(), chunk=chunk, precision=precision)
    assert model.iteration == eager.iteration == 20
    assert torch.equal(weights(model), weights(eager))  # dropout on, milestones within chunks
    assert ours == [pytest.approx(row, rel=1e-12) for row in theirs]  # summed a chunk at a time
    assert len(ours) == 4  # 7, 13, 19, 20: a row for each pass over the images, and the last


def test_clipping_is_part_of_an_iteration() -> None:
    clipped, unclipped = (train(Graph(), clip_norm=norm)[0] for norm in (0.1, None))
    assert torch.equal(weights(clipped), weights(train(Eager(), clip_norm=0.1)[0]))
    assert not torch.equal(weights(clipped), weights(unclipped))


def test_a_loss_that_is_not_finite_ends_training_where_it_does_eagerly() -> None:
    for bad in (0, 50):  # wherever the permutation puts them: within a chunk, and in the part that is compared
        eager, _ = train(Eager(), bad=bad)
        model, rows = train(Graph(), bad=bad)
        assert model.iteration == eager.iteration < 7
        assert math.isnan(rows[-1][0])
        assert model.steps.name == "graph"  # the same NaN in both is no reason against the graph


def test_the_trial_leaves_nothing_behind() -> None:
    module = Classifier(net(), RUN)
    optimizer = module.configure_optimizers()
    chunk = next(iter(data("cpu").train_dataloader()))
    images, labels = chunk.stacked()
    static = Static(images, labels, len(chunk), chunk.max_length)
    static.fill(images, labels)
    before, state = weights(module), torch.get_rng_state()
    snapshot = Snapshot(module, optimizer)
    Graph()._check(module, optimizer, static, snapshot, 3)
    assert not torch.equal(state, torch.get_rng_state())  # it has drawn masks
    snapshot.restore(module, optimizer)
    assert torch.equal(before, weights(module))
    assert torch.equal(state, torch.get_rng_state())
    assert all(not one["momentum_buffer"].any() for one in optimizer.state.values())
    assert all(parameter.grad is None for parameter in module.net.parameters())


class NothingWaits(TorchDispatchMode):
    """Refuses what a graph cannot hold: the host reading from the device, tensors made of the host's numbers."""

    REFUSED = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "masked_select", "_unique2")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} cannot be captured"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nothing_in_an_iteration_waits_for_the_host_and_nothing_moves(activation: str) -> None:
    made = build(FITNET4, ACTIVATIONS[activation], width=0.125).to(memory_format=torch.channels_last)
    module = Classifier(made, replace(RUN, clip_norm=1.0))
    optimizer = module.configure_optimizers()
    images = torch.randn(2 * 4, 3, 32, 32, generator=seeded(1)).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (2 * 4,), generator=seeded(2))
    static = Static(images, labels, 2, 2)
    static.fill(images, labels)
    play = graph_module._capture(module, optimizer, static, 0.1)
    play()  # makes the momenta
    kept = [*made.parameters(), *(one["momentum_buffer"] for one in optimizer.state.values())]
    kept += [static.at, static.losses, static.sums]
    places, values = [tensor.data_ptr() for tensor in kept], [tensor.detach().clone() for tensor in kept]
    with NothingWaits():
        play()
    assert [tensor.data_ptr() for tensor in kept] == places
    changed = [not torch.equal(now, before) for now, before in zip(kept, values, strict=True)]
    assert sum(changed) > len(kept) / 2  # where hardly a gradient arrives, weights may stay
    assert changed[-3:] == [True, True, True]
    assert static.images.is_contiguous()
    static.rewind()
    assert static.batch()[0].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="_local_scalar_dense cannot be captured"), NothingWaits():
        static.losses[0].item()


def stuck(module: Any, optimizer: Any, static: Static, rate: float) -> Any:
    """A capture whose replays see the first batch again and again."""
    play = real_capture(module, optimizer, static, rate)

    def again() -> None:
        static.labels[1:], static.images[1:] = static.labels[:1], static.images[:1]
        play()

    return again


def same_masks(module: Any, optimizer: Any, static: Static, rate: float) -> Any:
    """A capture whose replays draw the same dropout masks each time."""
    play, state = real_capture(module, optimizer, static, rate), torch.get_rng_state()

    def again() -> None:
        torch.set_rng_state(state)
        play()

    return again


def impossible(module: Any, optimizer: Any, static: Static, rate: float) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nand more of it")


real_capture = graph_module._capture
WRONG = [
    (stuck, "its losses differ from the eager ones by "),
    (same_masks, "its losses differ from the eager ones by "),
    (impossible, "operation not permitted when stream is capturing)"),
]


@pytest.mark.parametrize(("wrong", "reason"), WRONG)
def test_a_graph_that_is_wrong_is_not_used(wrong: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, theirs = train(Eager())
    monkeypatch.setattr(graph_module, "_capture", wrong)
    model, ours = train(Graph(required=False))
    assert model.steps.name.startswith(f"eager (graph: {reason}")
    assert torch.equal(weights(model), weights(eager))  # as if nothing had been tried
    assert ours == theirs
    with pytest.raises(RuntimeError, match=reason.rstrip(")")):
        train(Graph())


def test_which_steps_are_made_where() -> None:
    assert isinstance(steps_for("auto", "cpu", 1), Eager)
    assert isinstance(steps_for("eager", "cuda", 1), Eager)
    assert isinstance(steps_for("auto", "cuda", 2), Eager)
    asked, found, fused = steps_for("graph", "cuda", 1), steps_for("auto", "cuda", 1), steps_for("compiled", "cuda", 1)
    assert isinstance(asked, Graph)
    assert isinstance(found, Graph)
    assert isinstance(fused, Graph)
    assert (asked.required, found.required, fused.required) == (True, False, True)
    assert (asked.name, found.name, fused.name) == ("graph", "graph", "compiled")


def test_torch_compile_can_follow_every_net_and_its_masks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # The tracing and the differentiation are those of the real thing; its kernels, made by a C++ compiler in half a
    # minute, are left out.
    monkeypatch.setattr(graph_module, "_compile", lambda net: torch.compile(net, backend="aot_eager", fullgraph=True))
    eager, _ = train(Eager())
    for chunk in (1, 7):
        model, _ = train(Graph(compiled=True), chunk=chunk)
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
    model, _ = train(Graph(compiled=compiled), "cuda", precision=precision)
    difference = (weights(model) - weights(eager)).norm() / weights(eager).norm()
    assert difference < (1e-4 if precision == "32-true" else 2e-2)
