"""The facts about activations against the functions that training uses."""

import math

import pytest
import torch

from replicate.names import ACTIVATIONS, resolve
from replicate.report.activations import FACTS, Facts, activation_rows

ELEMENTWISE = [name for name in ACTIVATIONS if name != "maxout"]


def values_and_slopes(name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    values = resolve(ACTIVATIONS[name]).module(1).double()(x)
    return values.detach(), torch.autograd.grad(values.sum(), x)[0]


def test_every_activation_has_facts() -> None:
    assert FACTS.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slopes_and_range(name: str) -> None:
    facts = FACTS[name]
    ends, slopes = values_and_slopes(name, torch.tensor([-10.0, 10.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx(facts.slopes, rel=1e-3, abs=1e-12)
    values, _ = values_and_slopes(name, torch.linspace(-50, 50, 100_001, dtype=torch.float64))
    found = (values.min().item(), values.max().item())
    for bound, at_10, extreme in zip((facts.lowest, facts.highest), ends.tolist(), found, strict=True):
        # without a bound, the function still falls or rises far out
        assert extreme == pytest.approx(bound, abs=1e-4) if math.isfinite(bound) else abs(extreme) > 4 * abs(at_10)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_zero_centred_is_a_mean_of_zero_for_normal_input_of_any_deviation(name: str) -> None:
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    density = torch.exp(-x.square() / 2)
    density /= density.sum()
    # SELU has it at deviation 1 only, for which it is made.
    means = [float((values_and_slopes(name, deviation * x)[0] * density).sum()) for deviation in (0.5, 1.0, 3.0)]
    assert all(abs(mean) < 1e-9 for mean in means) == FACTS[name].zero_centred


def test_gains_of_torch() -> None:
    gain = torch.nn.init.calculate_gain
    for name in ("relu", "tanh", "sigmoid", "selu"):
        assert FACTS[name].gain == pytest.approx(gain(name))
    for name, slope in (("leaky_relu", 0.01), ("leaky_relu_0.1", 0.1), ("vlrelu", 1 / 3), ("prelu", 0.25)):
        assert FACTS[name].gain == pytest.approx(gain("leaky_relu", slope))


def test_maxout_has_the_slope_of_its_largest_piece() -> None:
    x = torch.tensor([[-10.0, -11.0], [10.0, 9.0]], requires_grad=True)
    resolve(ACTIVATIONS["maxout"]).module(2)(x).sum().backward()
    assert tuple(x.grad.sum(1).tolist()) == FACTS["maxout"].slopes
    normal = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    assert normal.amax(1).mean() > 0.5  # 1 / √π
    assert not FACTS["maxout"].zero_centred


def test_rows() -> None:
    doc = {"axes": ["activation", "init"], "rows": [{"value": "tanh"}, {"value": "relu"}], "columns": []}
    doc["protocol"] = {"settings": {}}
    tanh, relu = activation_rows(doc, {"relu": ([0.0, 0.5], [0.25])})
    facts = Facts(0.0, math.inf, False, (0.0, 1.0), math.sqrt(2))._asdict() | {"highest": None}
    assert relu == {"name": "relu", "facts": facts, "dead_before": 25.0, "dead_after": 25.0}
    assert (tanh["facts"]["lowest"], tanh["facts"]["highest"]) == (-1.0, 1.0)
    assert (tanh["dead_before"], tanh["dead_after"]) == (None, None)
    doc["axes"], doc["protocol"]["settings"] = ["preprocessing", "init"], {"activation": "vlrelu"}
    assert [row["name"] for row in activation_rows(doc, {})] == ["vlrelu"]
    doc["protocol"]["settings"]["activation"] = "somebody's own"
    assert [row["facts"] for row in activation_rows(doc, {})] == [None]
