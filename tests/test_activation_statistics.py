"""experiments/activation_statistics.py: what lecture notes say of each initialisation, in numbers, and a short run.

The notes' nets have 4,096 units. With 256 the Gaussian deviations are four times as large, so n σ² is the same.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import activation_statistics
import numpy as np
import pandas as pd
import pytest
from activation_nets import ACTIVATIONS, INITS, LAYERS, RANGES, Draws, Layer, measure
from script import run_app

UNITS = 256
Measure = Callable[..., list[Layer]]


@pytest.fixture(scope="module")
def draws() -> Draws:
    return Draws(UNITS)


@pytest.fixture(scope="module")
def layers(draws: Draws) -> Measure:
    """Measure the net of an activation and an initialisation; `factor` multiplies its weights."""

    def of(activation: str, init: str, factor: float = 1.0) -> list[Layer]:
        net = draws.net(activation, init)
        for linear in net[::2]:
            linear.weight.data *= factor
        return measure(net, draws.inputs, draws.loss_weights, RANGES[activation])

    return of


def rms(layer: Layer) -> float:
    return math.hypot(layer.mean, layer.deviation)


def test_a_net_is_measured_as_by_numpy_and_by_the_full_gradient(draws: Draws) -> None:
    net = draws.net("tanh", "MSRA")
    measured = measure(net, draws.inputs, draws.loss_weights, (-1, 1))
    (net(draws.inputs) * draws.loss_weights).sum().backward()
    x = draws.inputs.numpy()
    for linear, layer in zip(net[::2], measured, strict=True):
        x = np.tanh(x @ linear.weight.detach().numpy().T)
        assert (layer.mean, layer.deviation) == pytest.approx((x.mean(), x.std()), abs=1e-5)
        assert layer.shares == pytest.approx(np.histogram(x, 30, (-1, 1))[0] / x.size, abs=1e-3)
        assert layer.gradient == pytest.approx(linear.weight.grad.norm().item(), rel=1e-4)
        linear.weight.grad = None


def test_the_deviations_of_the_weights(draws: Draws) -> None:
    """MSRA's is the notes' 1 / sqrt(fan_in / 2), and the Gaussian ones are the notes' at 4,096 units."""
    expected = {"Gaussian 0.01": 0.04, "Gaussian 0.05": 0.2, "Gaussian 0.5": 2.0, "MSRA": 1 / math.sqrt(UNITS / 2)}
    expected |= {"Xavier": 1 / math.sqrt(UNITS), "OrthoNorm": 1 / math.sqrt(UNITS), "zeros": 0.0}
    for init, deviation in expected.items():
        assert draws.net("tanh", init)[0].weight.std().item() == pytest.approx(deviation, rel=0.02), init


def test_tanh_with_small_weights_shrinks_to_0(layers: Measure) -> None:
    measured = layers("tanh", "Gaussian 0.01")
    for before, after in pairwise(measured):
        assert 0.5 < after.deviation / before.deviation < 0.66  # at most √(n σ²) = 0.64, but for chance
    assert measured[-1].deviation < 0.06
    assert all(layer.gradient < 0.1 for layer in measured)


def test_tanh_with_large_weights_saturates_but_its_gradient_does_not_vanish(layers: Measure) -> None:
    """The notes say that all gradients are about 0. The slopes are, but the weights are large."""
    measured = layers("tanh", "Gaussian 0.5")
    for layer in measured:
        assert layer.shares[0] + layer.shares[-1] > 0.9
        assert layer.saturated > 0.9
    assert measured[-1].gradient < 0.2
    assert measured[0].gradient > 50


def test_tanh_with_xavier_is_just_right(layers: Measure) -> None:
    for layer in layers("tanh", "Xavier"):
        assert 0.25 < layer.deviation < 0.65
        assert layer.saturated < 0.05
        assert 0.2 < layer.gradient < 0.5


def test_relu_keeps_its_size_with_msra_and_is_halved_with_xavier(layers: Measure) -> None:
    assert [rms(layer) for layer in layers("ReLU", "MSRA")] == pytest.approx([1.0] * LAYERS, abs=0.15)
    squares = [rms(layer) ** 2 for layer in layers("ReLU", "Xavier")]
    assert squares == pytest.approx([0.5**layer for layer in range(1, LAYERS + 1)], rel=0.25)


def test_relu_explodes_with_the_notes_slip(layers: Measure) -> None:
    """`randn / sqrt(2 / d_in)` is n / 2 times MSRA's weights, so each layer grows by that factor."""
    expected = [(UNITS / 2) ** layer for layer in range(1, LAYERS + 1)]
    assert [rms(layer) for layer in layers("ReLU", "MSRA", UNITS / 2)] == pytest.approx(expected, rel=0.15)


def test_lsuv_gives_every_layer_unit_variance(layers: Measure) -> None:
    """If z is standard normal, the root mean square of tanh z is 0.628, and that of max(z, 0) is √½."""
    assert [rms(layer) for layer in layers("tanh", "LSUV")] == pytest.approx([0.628] * LAYERS, abs=0.01)
    assert [rms(layer) for layer in layers("ReLU", "LSUV")] == pytest.approx([math.sqrt(0.5)] * LAYERS, abs=0.03)


@pytest.mark.parametrize(("activation", "value"), [("tanh", 0.0), ("ReLU", 0.0), ("sigmoid", 0.5)])
def test_zeros_make_all_outputs_equal(layers: Measure, activation: str, value: float) -> None:
    measured = layers(activation, "zeros")
    assert {(layer.mean, layer.deviation) for layer in measured} == {(value, 0.0)}
    assert [layer.gradient for layer in measured[:-1]] == [0.0] * (LAYERS - 1)
    assert (measured[-1].gradient > 0) == (activation == "sigmoid")  # only there the last layer's inputs are not 0


@pytest.mark.parametrize("init", ["Xavier", "MSRA", "OrthoNorm", "LSUV"])
def test_sigmoid_loses_its_gradient(layers: Measure, init: str) -> None:
    measured = layers("sigmoid", init)
    assert measured[0].gradient < measured[-1].gradient / 30


def test_the_same_draws_make_the_same_units_of_relu_dead(layers: Measure) -> None:
    assert layers("ReLU", "Gaussian 0.01")[-1].dead == layers("ReLU", "MSRA")[-1].dead > 0


def test_the_finding() -> None:
    ends = {  # deviation of the first and of the last layer, saturated outputs of the last, gradient of the first
        "a": (0.6, 0.19, 0.0, 0.1), "b": (0.6, 0.21, 0.6, 1.0), "c": (0.9, 0.9, 0.7, 160.0),
        "d": (1.0, 3.1, 0.5, 2.0), "e": (0.0, 0.0, 1.0, 0.0), "f": (1.0, 2.9, 0.5, 3.0),
    }  # fmt: skip
    rows = [
        {"activation": "x", "init": init, "layer": layer, "deviation": deviation, "saturated": share, "gradient": norm}
        for init, (first, last, share, norm) in ends.items()
        for layer, deviation in ((1, first), (LAYERS, last))
    ]
    assert activation_statistics.finding(pd.DataFrame(rows)) == (
        "x: the outputs shrink with a; keep their size with b, f; saturate with c; grow with d; are all equal with e; "
        "the first layer's gradient, if it is not 0, has norms from 0.1 (a) to 160 (c)."
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (0.00012, "1e-4"), (0.0012, "0.0012"), (-0.63, "-0.63"), (123.4, "123"), (4.23e6, "4e6")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert activation_statistics.short(number) == text


def test_it_writes_the_picture_and_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(activation_statistics.app, ["--units", "16", "--out", str(tmp_path)]) == 0
    found = pd.read_csv(tmp_path / "activation_statistics.csv")
    assert len(found) == len(ACTIVATIONS) * len(INITS) * LAYERS
    assert list(found) == ["activation", "init", "layer", "mean", "deviation", "saturated", "dead", "gradient"]
    assert not found.isna().any(axis=None)
    assert (tmp_path / "activation_statistics.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("are all equal with zeros") == len(ACTIVATIONS)


@pytest.mark.parametrize("words", [["--units", "1"], ["--out", "/dev/null/out"]])
def test_wrong_usage_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(activation_statistics.app, words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
