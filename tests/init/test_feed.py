"""Batches of every form reach the model by its own calling convention."""

from collections import UserDict, namedtuple

import pytest
import torch
from init.zoo import noise
from torch import Tensor, nn

from replicate.init import LSUVError, lsuv_
from replicate.init.feed import Feed


class Records(nn.Module):
    """Keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        self.calls.append((x.clone(), mask))
        return self.linear(x)


X, MASK = noise(8, 2), torch.ones(8)
Named = namedtuple("Named", ["x", "mask"])


@pytest.mark.parametrize(
    ("batches", "mask", "fixed"),
    [
        (X, False, True),
        ((X, MASK), True, True),
        ({"x": X, "mask": MASK}, True, True),
        (UserDict(x=X, mask=MASK), True, True),
        (Named(X, MASK), True, True),
        ([X], False, False),
        ([(X, MASK)], True, False),
        ([[X, MASK]], True, False),
        ([{"mask": MASK, "x": X}], True, False),
        (lambda: X, False, False),
        (lambda: {"x": X}, False, False),
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, MASK), batch_size=8), True, False),
    ],
)
def test_forms(batches: object, mask: bool, fixed: bool) -> None:
    model = Records()
    feed = Feed(model, batches)
    feed()
    feed()
    assert feed.fixed == fixed
    assert feed.passes == len(model.calls) == 2
    for x, seen in model.calls:
        assert torch.equal(x, X)
        assert (seen is not None) == mask


def test_an_iterable_is_started_again_and_an_empty_one_refused() -> None:
    model = Records()
    feed = Feed(model, [X, X + 1])
    for _ in range(3):
        feed()
    assert [bool(torch.equal(x, X)) for x, _ in model.calls] == [True, False, True]
    used_up = Feed(model, iter([X]))
    used_up()
    with pytest.raises(LSUVError, match="the batches came to an end"):
        used_up()
    with pytest.raises(LSUVError, match="not int"):
        Feed(model, 3)()


def test_forward_for_models_that_need_more() -> None:
    model = Records()
    labelled = [(X, torch.zeros(8), "cats")]
    report = lsuv_(model, labelled, forward=lambda net, batch: net(batch[0]).sum(), dropout=False)
    assert report[0].converged
    with pytest.raises(
        LSUVError, match=r"does not take such a batch \(too many positional arguments\); say how by forw"
    ):
        lsuv_(model, labelled)


def test_type_errors_inside_the_model_stay_what_they_are() -> None:
    class Broken(Records):
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x, x)

    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        lsuv_(Broken(), X)


def test_batches_that_need_gradients_keep_on_needing_them() -> None:
    class Force(Records):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(self.linear(x).square().sum(), x)[0]

    assert lsuv_(Force(), X.clone().requires_grad_())[0].converged


def test_models_that_work_in_place_spoil_no_batch() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Linear(2, 2))
    x = X.clone()
    report = lsuv_(model, x)
    assert torch.equal(x, X)
    assert all(row.converged for row in report)
