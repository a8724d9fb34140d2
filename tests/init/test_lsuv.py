"""LSUV: unit variances in the order of the forward pass, and what the report says of them."""

import copy
import itertools

import pytest
import torch
from init import reference
from init.zoo import Crossed
from torch import nn

from replicate.init import LayerReport, LSUVError, LSUVWarning, lsuv_
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
    found = reference.variances(net, (batch,))
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

    (report,) = lsuv_(nn.Linear(1, 1), batches(), average=1, check=0)
    # Measured 4, rescaled by 1/2; measured 0.5²·0.5² = 1/16, rescaled by 4; measured (2·1)² = 4, by 1/2; measured 1.
    assert (report.variance_before, report.variance_after, report.tries) == (4.0, 1.0, 3)
    assert seen == [1.0, 2.0, 0.5, 1.0, 1.0]


def test_the_mean_of_several_batches_at_each_look() -> None:
    swinging = (torch.tensor([[-s], [s]]) for s in itertools.cycle([1.0, 2.0]))
    (report,) = lsuv_(nn.Linear(1, 1), swinging, average=2, check=0)
    # (1² + 2²) / 2 = 2.5, then 1
    assert (report.variance_before, report.tries) == (2.5, 1)
    assert report.variance_after == pytest.approx(1)


def test_a_layer_that_does_not_settle_is_reported() -> None:
    swinging = (torch.tensor([[-s], [s]]) for s in itertools.cycle([1.0, 2.0]))
    with pytest.warns(LSUVWarning, match="not converged: the model itself"):
        (report,) = lsuv_(nn.Linear(1, 1), swinging, max_iter=5, average=1, check=0)
    assert (report.tries, report.converged) == (5, False)


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


def test_layers_that_are_not_reached_are_left_alone_and_named() -> None:
    model = Crossed()
    before = copy.deepcopy(model.unused.state_dict())
    report = lsuv_(model, noise(16, 4))
    assert [(row.layer, row.order) for row in report] == [("first", 1), ("shared", 2), ("last", 3), ("unused", None)]
    assert report[3] == LayerReport("unused", 0, status="not reached")
    assert all(torch.equal(value, before[name]) for name, value in model.unused.state_dict().items())


def test_the_mean_over_further_batches_is_measured_on_request() -> None:
    net = build(FITNET4, ACTIVATIONS["relu"], width=0.125)
    stream = generator(2)
    taken: list[torch.Tensor] = []

    def batches() -> torch.Tensor:
        taken.append(torch.randn(8, 3, 32, 32, generator=stream))
        return taken[-1]

    torch.manual_seed(0)
    report = lsuv_(net, batches, generator=generator(), average=1, check=4, dropout=False, tol=0.2)
    assert report.batches == 4
    assert report.passes == len(taken) == 1 + sum(1 + row.tries for row in report) + 4
    net.eval()
    found = [reference.variances(net, (batch,)) for batch in taken[-4:]]
    for row in report:
        assert row.variance == pytest.approx(sum(f[row.layer, 0] for f in found) / 4, abs=1e-5)


def test_one_batch_without_dropout_takes_two_forward_passes() -> None:
    net = build(FITNET4, ACTIVATIONS["maxout"], width=0.125)
    calls: list[str] = []
    for name, layer in net.named_children():
        layer.register_forward_pre_hook(lambda _m, _a, name=name: calls.append(name))
    report = lsuv_(net, noise(8), dropout=False, generator=generator())
    assert report.passes == 2
    tries = {row.layer: max(r.tries for r in report if r.layer == row.layer) for row in report}
    for name, _ in net.named_children():
        assert calls.count(name) == 2 + tries.get(name, 0)


def test_a_list_of_batches_is_started_again() -> None:
    (report,) = lsuv_(nn.Linear(4, 4), [noise(64, 4)])
    assert report.converged


def test_without_batches_or_layers_it_says_so() -> None:
    with pytest.raises(LSUVError, match="the batches came to an end"):
        lsuv_(nn.Linear(1, 1), [])
    with pytest.raises(LSUVError, match="no linear or convolutional layer"):
        lsuv_(nn.Sequential(nn.ReLU(), nn.Dropout()).append(nn.BatchNorm1d(2)), noise(4, 2))
    model = Crossed()
    model.forward = lambda x: x
    for batches in (noise(4, 4), [noise(4, 4)]):
        with pytest.raises(LSUVError, match="no linear or convolutional layer was reached"):
            lsuv_(model, batches, dropout=False)
