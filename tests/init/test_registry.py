"""initialize_: every scheme through the layers' own forward, piece by piece."""

import itertools
import math

import pytest
import torch

from replicate.errors import UsageError
from replicate.init import INITS, initialize_
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.run import INITS as NAMES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches():
    return itertools.repeat(torch.randn(32, 3, 32, 32, generator=generator(1)))


def pieces_through_forward(layer: torch.nn.Module, pieces: int) -> list[torch.Tensor]:
    """Weights of each piece (out, in·k·k) as the layer's forward applies them: its response to unit inputs."""
    with torch.no_grad():
        if isinstance(layer, torch.nn.Linear):
            response = (layer(torch.eye(layer.in_features)) - layer.bias).T
        else:
            units = torch.eye(layer.in_channels * 9).view(-1, layer.in_channels, 3, 3)
            response = layer(units)[:, :, 1, 1].T  # at the centre the whole kernel lies on the unit input
    return [response[piece::pieces] for piece in range(pieces)]


def test_the_registry_holds_the_names_of_a_run() -> None:
    assert INITS == NAMES


@pytest.mark.parametrize("activation", ["maxout", "vlrelu"])
@pytest.mark.parametrize("init", INITS)
def test_every_layer_by_its_formula(init: str, activation: str) -> None:
    act = ACTIVATIONS[activation]
    net = build(FITNET4, act, width=0.25)
    report = initialize_(net, init, batches(), generator=generator(), negative_slope=act.negative_slope)
    layers = {name: layer for name, layer in net.named_children() if hasattr(layer, "weight")}
    assert list(dict.fromkeys(entry.layer for entry in report)) == list(layers)
    for layer in layers.values():
        assert not layer.bias.any()
        for weight in pieces_through_forward(layer, getattr(layer, "pieces", 1)):
            rows, fan_in = weight.shape
            if "orthonormal" in init or init == "lsuv":
                gram = weight @ weight.T if rows <= fan_in else weight.T @ weight
                square = {"orthonormal": 1.0, "orthonormal_msra": 2 / (1 + act.negative_slope**2)}.get(init)
                square = square or gram.diagonal().mean().item()  # LSUV: whatever the data asked for
                torch.testing.assert_close(gram, square * torch.eye(len(gram)), atol=2e-5 * square, rtol=0)
            elif init == "xavier":
                bound = math.sqrt(3 / fan_in)
                assert weight.abs().max() <= bound * (1 + 1e-6)
                assert weight.abs().max() >= 0.9 * bound
            elif init == "msra":
                # the sample's deviation scatters by about 1/√(2n)
                assert weight.std().item() == pytest.approx(
                    math.sqrt(2 / fan_in), rel=4 / math.sqrt(2 * weight.numel())
                )


def test_pieces_differ() -> None:
    net = build(FITNET4, ACTIVATIONS["maxout"], width=0.25)
    initialize_(net, "orthonormal", batches(), generator=generator())
    first, second = pieces_through_forward(net.get_submodule("conv1"), 2)
    assert (first - second).abs().min() > 0


def test_the_variance_after_all_is_reported_for_every_scheme() -> None:
    net = build(FITNET4, ACTIVATIONS["tanh"], width=0.25, dropout=0)
    report = initialize_(net, "orthonormal", batches(), generator=generator())
    # Orthonormal rows of a unit-variance input without padding would give 1 / 1; zero padding takes some away.
    assert 0.8 < report[0].variance < 1.1
    assert all(entry.tries is None for entry in report)
    lsuv = initialize_(net, "lsuv", batches(), generator=generator())
    assert all(abs(entry.variance - 1) < 0.021 for entry in lsuv)
    assert all(entry.converged for entry in lsuv)


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown init 'lsvu'.*choose from: lsuv, orthonormal, "):
        initialize_(torch.nn.Linear(1, 1), "lsvu", batches())
