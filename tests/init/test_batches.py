"""Batches in the forms in which users have them."""

from collections import UserDict, namedtuple
from collections.abc import Callable

import numpy as np
import pytest
import torch
from init.zoo import noise
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from replicate.init import LSUVError, lsuv_
from replicate.init.forward import ForwardRunner

X, MASK, LABELS = noise(8, 2), torch.ones(8), torch.arange(8)
Named = namedtuple("Named", ["x", "mask"])


class Recorder(nn.Module):
    """Records what it was called with, and works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls: list[tuple[Tensor, ...]] = []

    def record(self, x: Tensor, *others: Tensor) -> Tensor:
        self.calls.append((x.clone(), *others))
        return self.linear(x.mul_(2))


class One(Recorder):
    def forward(self, x: Tensor) -> Tensor:
        return self.record(x)


class Two(Recorder):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.record(x, mask)


class Optional(Recorder):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.record(x, *([] if mask is None else [mask]))


def loader(*tensors: Tensor) -> DataLoader:
    return DataLoader(TensorDataset(*tensors), batch_size=8)


@pytest.mark.parametrize(
    ("model", "batches", "mask", "single"),
    [
        (One, X, False, True),
        (One, lambda: X, False, False),
        (One, [X], False, False),
        # Data and labels, with and without a loader
        (One, (X, LABELS), False, True),
        (One, next(iter(loader(X, LABELS))), False, True),
        (One, [X, X + 1], False, True),  # a target in the form of the input
        (One, loader(X, LABELS), False, False),
        (One, [(X, LABELS, "cats")], False, False),
        # Several arguments
        (Two, loader(X, MASK), True, False),
        (Two, [X, MASK], True, True),
        (Optional, Named(X, MASK), True, True),
        (Optional, [(X, MASK)], True, False),
        (Optional, UserDict(x=X, mask=MASK), True, True),
        (Optional, [{"mask": MASK, "x": X}], True, False),
    ],
)
def test_forms_of_batches(model: type[Recorder], batches: object, mask: bool, single: bool) -> None:
    recorder = model()
    runner = ForwardRunner(recorder, batches)
    runner()
    runner()
    assert (runner.single_batch, runner.count, len(recorder.calls)) == (single, 2, 2)
    for x, *others in recorder.calls:
        assert torch.equal(x, X)
        assert len(others) == mask
        assert all(torch.equal(other, MASK) for other in others)


@pytest.mark.parametrize(
    ("model", "batches", "message"),
    [
        (
            Optional,
            loader(X, LABELS),
            r"the batch is a list of 2, and the model takes one argument or more; give a tuple",
        ),
        (One, [X, X, X], r"a list of 3 tensors of one shape may be one batch or 3 batches; give a tuple for one batch"),
        (Two, X, r"the model does not accept such a batch \(.*'mask'\); pass forward=lambda"),
        (One, {"y": X}, r"the model does not accept such a batch \(.*\); pass forward=lambda"),
        (One, X.numpy(), r"the batch is a numpy array; convert it with torch.from_numpy"),
        (One, [(np.ones(3), 1)], r"the batch is a numpy array"),
        (One, {"x": X.numpy()}, r"the batch is a numpy array"),
        (One, 3, r"batches are a tensor, a callable or an iterable, not int"),
        (One, "train", r"batches are a tensor, a callable or an iterable, not str"),
        (One, iter([X]).__next__, r"the batches came to an end"),
        (One, [], r"the batches came to an end"),
    ],
)
def test_what_is_unclear_or_wrong_is_refused(model: type[Recorder], batches: object, message: str) -> None:
    recorder = model()
    before = recorder.linear.weight.clone()
    with pytest.raises(LSUVError, match=f"^{message}") as caught:
        lsuv_(recorder, batches)
    assert "\n" not in str(caught.value)
    assert torch.equal(recorder.linear.weight, before)


def test_a_list_of_batches_is_started_again_and_an_iterator_is_not() -> None:
    recorder = One()
    runner = ForwardRunner(recorder, [(X,), (X + 1,)])
    for _ in range(3):
        runner()
    assert [bool(torch.equal(x, X)) for x, *_ in recorder.calls] == [True, False, True]
    used_up = ForwardRunner(recorder, iter([X]))
    used_up()
    with pytest.raises(LSUVError, match="the batches came to an end"):
        used_up()


@pytest.mark.parametrize("forward", [lambda net, batch: net(batch[0]).sum(), lambda net, batch: net(x=batch[0])])
def test_forward_is_for_models_that_need_more(forward: Callable[[nn.Module, object], object]) -> None:
    assert lsuv_(Optional(), [[X, LABELS, "cats"]], forward=forward, dropout=False)[0].converged


def test_the_input_has_unit_variance_in_a_batch_with_a_target() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    lsuv_(model, [X, 5 * X + 1], dropout=False)
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_packed_sequence_is_one_argument() -> None:
    packed = nn.utils.rnn.pack_sequence([noise(5, 2), noise(3, 2)])
    for row in lsuv_(nn.LSTM(2, 3), packed, dropout=False):
        assert row.status in ("converged", "drawn: recurrent")
