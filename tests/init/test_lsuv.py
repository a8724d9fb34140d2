"""LSUV: unit variances in the order of the forward pass, and what the report says of them."""

import itertools

import pytest
import torch
from torch import nn

from replicate.init import lsuv_
from replicate.init.layers import preactivation_variances
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int = 64, *shape: int) -> torch.Tensor:
    return torch.randn(n, *(shape or (3, 32, 32)), generator=generator(1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_on_a_fixed_batch_every_piece_ends_within_the_tolerance(activation: str) -> None:
    net = build(FITNET4, ACTIVATIONS[activation], width=0.125)
    batch = noise()
    report = lsuv_(net, batch, dropout=False, generator=generator())
    net.eval()
    with torch.no_grad():
        found = preactivation_variances(net, batch)
    assert list(found) == [(entry.layer, entry.piece) for entry in report]
    assert len(found) == (17 * 2 + 5 + 1 if activation == "maxout" else 19)
    for entry in report:
        assert entry.converged, entry
        assert abs(found[entry.layer, entry.piece] - 1) <= 0.02 + 1e-5
        assert entry.variance_after == pytest.approx(found[entry.layer, entry.piece], abs=1e-5)


def test_one_layer_by_hand() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    batch = torch.tensor([[-2.0], [2.0]])  # an orthonormal 1×1 weight is ±1, so the variance is 4
    (report,) = lsuv_(net, batch)
    assert (report.variance_before, report.variance_after) == (4.0, 1.0)
    assert (report.tries, report.converged) == (1, True)
    assert abs(net[0].weight.item()) == 0.5
    assert net[0].bias.item() == 0


def test_the_margin_is_on_the_variance_not_on_its_root() -> None:
    # Variance 1.03 has the standard deviation 1.0149: within 0.02 by the root, not by the variance.
    for variance, tries in ((1.03, 1), (1.015, 0), (0.985, 0), (0.975, 1)):
        half = variance**0.5
        (report,) = lsuv_(nn.Linear(1, 1), torch.tensor([[-half], [half]]))
        assert (report.tries, report.converged) == (tries, True)


def test_rescaling_keeps_the_direction_of_orthonormal_weights() -> None:
    net = build(FITNET4, ACTIVATIONS["maxout"], width=0.125)
    lsuv_(net, noise(), generator=generator())
    for name, pieces in (("conv9", 2), ("fc1", 5)):
        weight = net.get_submodule(name).weight.detach()
        for piece in range(pieces):
            flat = weight.unflatten(0, (-1, pieces))[:, piece].flatten(1)
            gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
            scale = gram.diagonal().mean()
            torch.testing.assert_close(gram / scale, torch.eye(len(gram)), atol=1e-5, rtol=0)


def test_fresh_batches_each_forward_pass_and_the_last_one_counts() -> None:
    scales = itertools.chain([1.0], [2.0, 0.5], itertools.repeat(1.0))  # the first finds the order of the layers
    seen: list[float] = []

    def batches() -> itertools.chain[torch.Tensor]:
        for scale in scales:
            seen.append(scale)
            yield torch.tensor([[-scale], [scale]])

    (report,) = lsuv_(nn.Linear(1, 1), batches())
    # Measured 4, rescaled by 1/2; measured 0.5²·0.5² = 1/16, rescaled by 4; measured (2·1)² = 4, by 1/2; measured 1.
    assert (report.variance_before, report.variance_after, report.tries) == (4.0, 1.0, 3)
    assert seen == [1.0, 2.0, 0.5, 1.0, 1.0]


def test_a_layer_that_does_not_settle_is_reported() -> None:
    swinging = (torch.tensor([[-s], [s]]) for s in itertools.cycle([1.0, 2.0]))
    (report,) = lsuv_(nn.Linear(1, 1), swinging, max_iter=5)
    assert (report.tries, report.converged) == (5, False)


def test_a_layer_without_variance_keeps_finite_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    report = lsuv_(net, torch.zeros(4, 2))
    assert [entry.converged for entry in report] == [False, False]
    assert [entry.tries for entry in report] == [0, 0]
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


def test_dropout_is_active_only_if_asked() -> None:
    def variance(dropout: bool) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 50))
        (report,) = lsuv_(net, noise(4000, 50), dropout=dropout, generator=generator())
        assert net.training
        assert report.variance_before is not None
        return report.variance_before

    assert variance(False) == pytest.approx(1, abs=0.02)
    assert variance(True) == pytest.approx(2, abs=0.04)  # kept values are doubled: E[x²] = 0.5 · 2²


def test_nothing_but_reached_weights_and_biases_changes() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Model()
    before = model.unused.weight.clone()
    lsuv_(model, noise(16, 4))
    assert torch.equal(model.unused.weight, before)
    assert model.used.weight.grad is None
    assert not model.used._forward_hooks


def test_a_list_of_batches_is_started_again() -> None:
    (report,) = lsuv_(nn.Linear(4, 4), [noise(64, 4)])
    assert report.converged


def test_without_batches_or_layers_it_says_so() -> None:
    with pytest.raises(ValueError, match="the batches came to an end"):
        lsuv_(nn.Linear(1, 1), [])
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        lsuv_(nn.Sequential(nn.ReLU(), nn.Dropout()).append(nn.BatchNorm1d(2)), noise(4, 2))
