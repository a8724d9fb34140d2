"""The measurements: the layers against NumPy and plain autograd, without any effect on the training; the clock."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import train_run
from torch import nn
from torch.nn import functional as F

from replicate.data import load
from replicate.nn.activations import MAXOUT, RELU
from replicate.nn.fitnet import FITNET4, FITNET4_BN_BEFORE, build
from replicate.nn.statistics import activation_statistics
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.measurements import read_layers
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.logger import Logger
from replicate.training.measurements import Curve, measure_layers, snapshot_iterations

pytestmark = pytest.mark.usefixtures("few_images")


def test_batch_normalisation_is_measured_as_it_trains() -> None:
    torch.manual_seed(0)
    net = build(FITNET4_BN_BEFORE, RELU, width=1 / 16)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    found = {entry.name: entry for entry in measure_layers(net.eval(), images, labels)}
    assert not any(module.training for module in net.modules())
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    for module in net.modules():
        module.train(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d))
    x = images
    for name, module in net.named_children():
        if name == "conv3_act":
            statistics = activation_statistics(module, x)
        x = module(x)
        if name == "conv3":
            variance = x.var(correction=0).item()
    assert found["conv3"].variance == pytest.approx(variance, rel=1e-4)
    assert (found["conv3"].saturated, found["conv3"].dead) == pytest.approx((statistics.saturated, statistics.dead))
    assert found["conv3"].saturated == pytest.approx(0.5, abs=0.15)  # of normalised inputs of ReLU


def test_a_run_is_measured_at_its_start_early_and_at_its_end() -> None:
    assert snapshot_iterations(90_000) == (0, 1000, 90_000)
    assert snapshot_iterations(1001) == (0, 1000, 1001)
    assert snapshot_iterations(1000) == (0, 1000)


def test_against_plain_autograd_and_numpy() -> None:
    torch.manual_seed(0)
    net = build(FITNET4, MAXOUT, width=0.125, dropout=0.5).to(memory_format=torch.channels_last)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    found = measure_layers(net, images, labels)
    net.eval()
    F.cross_entropy(net(images), labels).backward()
    outputs, x = {}, images
    for name, module in net.named_children():
        x = outputs[name] = module(x)
    layers = {name: module for name, module in net.named_children() if hasattr(module, "weight")}
    places = [(name, piece) for name, layer in layers.items() for piece in range(getattr(layer, "pieces", 1))]
    assert [(entry.name, entry.piece) for entry in found] == places
    assert len(places) == 17 * 2 + 5 + 1
    for entry in found:
        layer = layers[entry.name]
        part = slice(entry.piece, None, getattr(layer, "pieces", 1))
        weight, gradient = (tensor.detach()[part].flatten(1).numpy() for tensor in (layer.weight, layer.weight.grad))
        assert entry.variance == pytest.approx(outputs[entry.name][:, part].detach().double().numpy().var(), rel=1e-5)
        assert entry.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-4)
        expected = np.linalg.svd(weight, compute_uv=False)  # descending
        assert entry.singular_values == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-5)
        if entry.name == "fc2":
            assert (entry.saturated, entry.dead) == (None, None)
        else:
            measured = activation_statistics(net.get_submodule(f"{entry.name}_act"), outputs[entry.name])
            assert (entry.saturated, entry.dead) == pytest.approx(measured[2:], rel=1e-4)


def test_dead_units_are_counted_by_layer() -> None:
    net = build(FITNET4, RELU, width=0.125, dropout=0.5)
    with torch.no_grad():
        net.conv2.bias[:3] = -1e9  # three of four channels
    found = measure_layers(net, torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    assert found[1].dead == 0.75
    assert found[1].saturated >= 0.75


def test_at_most_64_singular_values_evenly_spaced() -> None:
    net = nn.Sequential(nn.Linear(127, 127, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.diag(torch.arange(127, 0, -1.0)))
    (entry,) = measure_layers(net, torch.ones(2, 127), torch.tensor([0, 1]))
    assert entry.singular_values == pytest.approx([float(value) for value in range(127, 0, -2)])


def test_what_is_not_finite_is_null() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.fill_(math.inf)
    first, second = measure_layers(net, torch.ones(2, 2), torch.tensor([0, 1]))
    assert (first.variance, first.gradient_norm, first.singular_values) == (None, None, (None, None))
    assert (second.variance, second.gradient_norm) == (None, None)
    assert all(math.isfinite(value) for value in second.singular_values)
    with torch.no_grad():
        net[0].weight.fill_(3e38)  # finite, though its squares and its products are not
    assert measure_layers(net, torch.ones(2, 2), torch.tensor([0, 1]))[1].variance is None


def test_a_gradient_norm_beyond_float32_is_null() -> None:
    net = nn.Linear(100, 2)
    with torch.no_grad():
        net.weight.zero_()
    (entry,) = measure_layers(net, torch.full((2, 100), 3e38), torch.tensor([0, 0]))
    assert (entry.variance is not None, entry.gradient_norm) == (True, None)


def test_the_file(tiny: Run, options: Options, early: int) -> None:
    result = train_run(tiny, options)
    first, second, third = read_layers(RunFolder.of(options.out, tiny), result.fingerprint)
    assert [first.iteration, second.iteration, third.iteration] == [0, early, 8]
    # The batch is the first that training sees, and after initialisation the net is the one that it starts from.
    data, net = build_data(tiny, load("synthetic", options.data_dir), "cpu"), build_net(tiny, 10, "cpu")
    init_net_(net, tiny, data)
    assert first.layers == measure_layers(net, *next(data.batches))
    assert first.layers != second.layers != third.layers


def test_training_does_not_notice(
    tiny: Run, options: Options, tmp_path: Path, early: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(tiny, init="xavier", activation="maxout", precision="bf16-mixed")
    measured = train_run(run, options)
    monkeypatch.setattr("replicate.training.build.snapshot_iterations", lambda _: ())
    elsewhere = replace(options, out=tmp_path / "without")
    without = train_run(run, elsewhere)
    assert without.weights_sha256 == measured.weights_sha256 is not None
    first, second = (RunFolder.of(one.out, run) for one in (options, elsewhere))
    assert read_layers(second, without.fingerprint) == ()
    assert first.curve_bytes() == second.curve_bytes()


def test_the_clock_of_training_stops_meanwhile(tiny: Run, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10_000, 100))
    monkeypatch.setattr("replicate.training.measurements.time.perf_counter", lambda: next(now))
    curve = Curve(acquire(RunFolder(options.out), Owner("cpu", 10)), 10, 2, print, Logger())  # the clock: 0
    curve.on_train_start(None, None)  # 100
    with curve.paused():  # 200 to 300
        pass
    assert curve.state_dict()["seconds"] == 200  # 100 to 200 and 300 to 400
    curve.on_train_end(None, None)  # 500 to 600
    assert curve.seconds == 300
