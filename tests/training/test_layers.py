"""The measurements of the layers: by hand, against plain autograd, and without a trace on the training."""

import json
import math
import os
import signal
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import train_run
from torch import nn
from torch.nn import functional as F

from replicate.data.dataset import Dataset
from replicate.data.sources import load
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.options import Options
from replicate.run import Run
from replicate.store.layers import parse_layers
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.training import layers, train
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.layers import measure, snapshot_iterations

pytestmark = pytest.mark.usefixtures("few_images")


def read(options: Options, run: Run) -> dict:
    text = (options.out / "runs" / run.run_id / "layers.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def iterations(content: dict) -> list[int]:
    return [moment["iteration"] for moment in content["moments"]]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> int:
    """The moment between the first and the last, where a short run has it, and no chunk of 4 ends."""
    monkeypatch.setattr(layers, "EARLY", 6)
    return 6


def test_when() -> None:
    assert snapshot_iterations(90_000) == (0, 1000, 90_000)
    assert snapshot_iterations(1001) == (0, 1000, 1001)
    assert snapshot_iterations(1000) == (0, 1000)
    assert snapshot_iterations(8) == (0, 8)


def test_by_hand() -> None:
    net = nn.Sequential(OrderedDict(fc=nn.Linear(2, 2)))
    with torch.no_grad():
        net.fc.weight.copy_(torch.tensor([[0.0, 3.0], [-4.0, 0.0]]))
        net.fc.bias.copy_(torch.tensor([0.0, 4.0]))
    # For (1, 0): logits (0, 0), softmax (1/2, 1/2). For (0, 0): (0, 4). Gradient of the mean loss by the weight:
    # (softmax − one-hot) xᵀ / 2, and x is 0 but for the first image's first value.
    (entry,) = measure(net, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    assert entry.name == "fc"
    assert entry.piece == 0
    assert entry.variance == pytest.approx(3.0)  # of 0, 0, 0, 4: mean 1, squares (1 + 1 + 1 + 9) / 4
    assert entry.gradient_norm == pytest.approx(math.hypot(-0.25, 0.25))
    assert entry.singular_values == pytest.approx([4.0, 3.0])


@pytest.mark.parametrize("activation", ["maxout", "tanh"])
def test_against_plain_autograd(activation: str) -> None:
    torch.manual_seed(0)
    net = build(FITNET4, ACTIVATIONS[activation], width=0.125, dropout=0.5)
    net.to(memory_format=torch.channels_last)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    found = measure(net, images, labels)
    net.eval()
    F.cross_entropy(net(images), labels).backward()
    named = {name: module for name, module in net.named_modules() if hasattr(module, "weight")}
    places = [(name, piece) for name, module in named.items() for piece in range(getattr(module, "pieces", 1))]
    assert [(entry.name, entry.piece) for entry in found] == places
    assert len(places) == (17 * 2 + 5 + 1 if activation == "maxout" else 19)
    x = images
    outputs = {}
    for name, module in net.named_children():
        x = outputs[name] = module(x)
    for entry, (name, piece) in zip(found, places, strict=True):
        pieces = getattr(named[name], "pieces", 1)
        weight, gradient = (t.detach()[piece::pieces] for t in (named[name].weight, named[name].weight.grad))
        output = outputs[name].detach()[:, piece::pieces].numpy().astype(np.float64)
        assert entry.variance == pytest.approx(output.var(), rel=1e-5)
        assert entry.gradient_norm == pytest.approx(float(np.linalg.norm(gradient.numpy())), rel=1e-4)
        expected = np.linalg.svd(weight.numpy().reshape(len(weight), -1), compute_uv=False)
        assert entry.singular_values == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        assert entry.singular_values == tuple(sorted(entry.singular_values, reverse=True))


def test_at_most_64_singular_values_evenly_spaced() -> None:
    net = nn.Sequential(nn.Linear(127, 127, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.arange(127, 0, -1.0)))
    (entry,) = measure(net, torch.ones(2, 127), torch.tensor([0, 1]))
    assert entry.singular_values == pytest.approx([float(value) for value in range(127, 0, -2)])


def test_what_is_not_finite_is_null() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.fill_(math.inf)
    first, second = measure(net, torch.ones(2, 2), torch.tensor([0, 1]))
    assert (first.variance, first.gradient_norm, first.singular_values) == (None, None, (None, None))
    assert (second.variance, second.gradient_norm) == (None, None)
    assert all(math.isfinite(value) for value in second.singular_values)
    with torch.no_grad():
        net[0].weight.fill_(3e38)  # finite, though its squares and its products are not
    assert measure(net, torch.ones(2, 2), torch.tensor([0, 1]))[1].variance is None


def test_it_leaves_nothing_behind() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net[1].eval()
    net(torch.randn(3, 4)).sum().backward()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in net.parameters()]
    flags, rng = [module.training for module in net.modules()], torch.get_rng_state()
    measure(net, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1]))
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(p.grad, g) for p, g in zip(net.parameters(), gradients, strict=True))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.fixture
def synthetic(options: Options) -> Dataset:
    return load("synthetic", options.data_dir)


def test_the_file(tiny: Run, options: Options, early: int, synthetic: Dataset) -> None:
    result = train_run(tiny, options)
    content = read(options, tiny)
    assert (content["schema"], content["run_id"], content["fingerprint"]) == (1, tiny.run_id, result.fingerprint)
    assert iterations(content) == [0, early, 8]
    # The batch is the first that training sees, and after initialisation the net is the one that it starts from.
    data, net = build_data(tiny, synthetic, "cpu"), build_net(tiny, 10, "cpu")
    init_net_(net, tiny, data)
    images, labels = next(data.batches)
    assert parse_layers(json.dumps(content).encode(), tiny.run_id, result.fingerprint)[0].layers == measure(
        net, images, labels
    )
    assert content["moments"][0] != content["moments"][1] != content["moments"][2]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_does_not_notice(
    tiny: Run, options: Options, tmp_path: Path, early: int, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    run = replace(tiny, init="xavier", activation="maxout", precision=precision)
    bits = []
    original = train.make_trainer

    def watched(*args):
        trainer = original(*args)
        fit = trainer.fit

        def and_keep(model, **settings):
            fit(model, **settings)
            bits.append(torch.cat([p.detach().flatten() for p in model.net.parameters()]))

        trainer.fit = and_keep
        return trainer

    monkeypatch.setattr(train, "make_trainer", watched)
    train_run(run, options)
    monkeypatch.setattr(layers, "measure", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr("replicate.training.build.snapshot_iterations", lambda _: ())
    elsewhere = replace(options, out=tmp_path / "without")
    assert train_run(run, elsewhere).error is None
    assert iterations(read(elsewhere, run)) == []
    assert torch.equal(*bits)
    curves = [(out.out / "runs" / run.run_id / "curve.csv").read_bytes() for out in (options, elsewhere)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(("cut", "kept"), [(5, [0]), (6, [0, 6])])
def test_cut_and_taken_up_it_ends_in_the_same_file(
    tiny: Run, options: Options, tmp_path: Path, early: int, monkeypatch: pytest.MonkeyPatch, cut: int, kept: list[int]
) -> None:
    monkeypatch.setattr("replicate.training.curve.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})
    run = replace(tiny, init="xavier", iterations=12)
    train_run(run, options)
    elsewhere = replace(options, out=tmp_path / "cut")

    def stop(iteration: int, accuracy: float | None) -> None:
        if iteration == cut:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train_run(run, elsewhere, stop) is None
    folder = elsewhere.out / "runs" / run.run_id
    assert iterations(read(elsewhere, run)) == kept
    saved = (folder / "checkpoint.pt").read_bytes()

    def fail(iteration: int, accuracy: float | None) -> None:
        if iteration == 9:
            raise RuntimeError("killed")

    # Killed beyond the checkpoint: what was measured after it is measured again, and it alone.
    assert train_run(run, elsewhere, fail).status == "error"
    (folder / "checkpoint.pt").write_bytes(saved)
    assert isinstance(train_run(run, elsewhere), Result)
    assert read(elsewhere, run) == read(options, run)


def test_of_a_run_that_diverges_the_moments_so_far_stay(tiny: Run, options: Options, early: int) -> None:
    run = replace(tiny, lr=1000, iterations=50, precision="32-true")
    result = train_run(run, options)
    assert result.status == "diverged"
    assert iterations(read(options, run)) == [0, 6][: 1 + (result.iteration >= 6)]


def test_the_clock_of_training_stands_still(tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    from replicate.training.curve import Curve

    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr("replicate.training.curve.time.perf_counter", lambda: next(now))
    lease = acquire(RunFolder(options.out), Owner("cpu", 10))
    curve = Curve(lease, 10, 2)  # the clock: 0
    curve.on_train_start(None, None)  # 100
    with curve.paused():  # 200 to 300
        pass
    assert curve.seconds == 200  # 100 to 200 and 300 to 400
