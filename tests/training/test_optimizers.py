"""Ten steps of each optimiser in float64, against its formula in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from replicate.run import OPTIMIZERS, Run
from replicate.training.optimizers import BUFFERS, make_optimizer

RATES = [0.1] * 5 + [0.02] * 5  # a milestone in the middle
DECAY = 0.01


def reference(run: Run, w: np.ndarray, gradients: np.ndarray, weight_decay: float) -> np.ndarray:
    m, eps = run.momentum, 1e-8
    v, s = np.zeros_like(w), np.zeros_like(w)
    for t, (lr, raw) in enumerate(zip(RATES, gradients, strict=True), start=1):
        g = raw + weight_decay * w
        if run.optimizer in ("sgd", "nesterov"):
            v = m * v + g
            w = w - lr * (v if run.optimizer == "sgd" else g + m * v)
        elif run.optimizer == "rmsprop":  # Caffe: history, update, local_rate, delta
            d = 0.99 if run.square_decay is None else run.square_decay
            s = d * s + (1 - d) * g**2
            w = w - lr * g / (np.sqrt(s) + eps)
        else:
            d = 0.999 if run.square_decay is None else run.square_decay
            v, s = m * v + (1 - m) * g, d * s + (1 - d) * g**2
            w = w - lr * (v / (1 - m**t)) / (np.sqrt(s / (1 - d**t)) + eps)
    return w


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0},
        {"optimizer": "nesterov", "momentum": 0.5},
        {"optimizer": "rmsprop", "momentum": 0.0},
        {"optimizer": "rmsprop", "momentum": 0.0, "square_decay": 0.9},
        {"optimizer": "adam"},
        {"optimizer": "adam", "momentum": 0.5, "square_decay": 0.9},
    ],
    ids=str,
)
def test_ten_steps(settings: dict) -> None:
    run = Run("lsuv", "relu", weight_decay=DECAY, **settings)
    generator = torch.Generator().manual_seed(0)
    net = nn.Linear(3, 2, dtype=torch.float64)
    parameters = {"weight": net.weight, "bias": net.bias}
    for parameter in parameters.values():
        nn.init.normal_(parameter, generator=generator)
    before = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
    gradients = {
        name: torch.randn(10, *parameter.shape, dtype=torch.float64, generator=generator)
        for name, parameter in parameters.items()
    }
    optimizer = make_optimizer(run, net)
    for step, rate in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step].clone()
        optimizer.step()
    for name, parameter in parameters.items():
        decay = DECAY if name == "weight" else 0.0  # none on biases
        expected = reference(run, before[name], gradients[name].numpy(), decay)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_each_keeps(name: str) -> None:
    run = Run("lsuv", "relu", optimizer=name, momentum=0.0 if name == "rmsprop" else 0.9)
    net = nn.Linear(3, 2)
    net(torch.ones(1, 3)).sum().backward()
    optimizer = make_optimizer(run, net)
    optimizer.step()
    kept = optimizer.state[net.weight]
    assert {*kept} - {"step"} == {*BUFFERS[name]}
    assert all(kept[buffer].shape == (2, 3) for buffer in BUFFERS[name])
