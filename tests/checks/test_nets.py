"""Losses and gradients: figures and planted faults. That good ones pass is in test_check.py."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.checks.nets import check_gradients, check_losses
from replicate.data.dataset import Dataset
from replicate.names import ACTIVATIONS
from replicate.nn.activations import Activation
from replicate.run import Run
from replicate.training.module import Classifier


def silent(text: str) -> None:
    pass


def text_of(table) -> list[list[str]]:
    return [list(column.cells) for column in table.columns]


def test_losses_of_all_cells(shapes: Dataset, tiny: Run) -> None:
    """With OrthoNorm and ReLU the logits all but vanish, so the loss is ln(10); at a large scale it is far above."""
    runs = [replace(tiny, init="orthonormal"), tiny, replace(tiny, init="msra", activation="maxout", input_scale=100.0)]
    said: list[str] = []
    found = check_losses(runs, shapes, said.append)
    assert said == ["MSRA × maxout", "Xavier × ReLU", "OrthoNorm × ReLU"]
    assert found.verdict == "ok"
    assert found.text.startswith("2.30")
    assert "in 3 cells, where ln(10) = 2.303; large ones (*) come from the initialisation" in found.text
    names, orthonormal, xavier, msra = text_of(found.table)
    assert [name.strip() for name in names] == ["ReLU", "maxout"]
    assert (orthonormal[0].startswith("2.30 ("), orthonormal[1], xavier[1], msra[0]) == (True, "–", "–", "–")
    assert float(msra[1].partition("* (")[0]) > 2 * 2.303


def test_one_run_per_cell_is_the_first(shapes: Dataset, tiny: Run) -> None:
    found = check_losses([tiny, replace(tiny, seed=1)], shapes, silent)
    other = check_losses([replace(tiny, seed=1)], shapes, silent)
    assert "in 1 cell" in found.text
    assert text_of(found.table) != text_of(other.table)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda _, logits, labels: F.cross_entropy(logits, labels, reduction="sum"), "the mean loss of Xavier × ReLU"),
        (lambda _, logits, labels: F.cross_entropy(logits, labels) / 10, "over all classes is 0.230, which must lie "),
        (lambda _, logits, labels: F.multi_margin_loss(logits, labels), "the mean loss of Xavier × ReLU"),
        (lambda _, logits, labels: logits.sum() * float("nan"), "Xavier × ReLU has a loss of nan"),
    ],
)
def test_a_broken_loss_fails(
    shapes: Dataset, tiny: Run, monkeypatch: pytest.MonkeyPatch, fault: object, message: str
) -> None:
    monkeypatch.setattr(Classifier, "loss", fault)
    found = check_losses([tiny], shapes, silent)
    assert found.verdict == "failed"
    assert message in found.text


class WrongSquare(torch.autograd.Function):
    """Half of the square's gradient is missing."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.01 * WrongSquare.apply(x)


def test_a_slightly_wrong_gradient_fails(shapes: Dataset, tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wrong", SimpleNamespace(WRONG=Activation(lambda _: Wrong())))
    monkeypatch.setitem(ACTIVATIONS, "tanh", "wrong:WRONG")
    found = check_gradients([replace(tiny, activation="tanh")], shapes, silent)
    assert found.verdict == "failed"
    assert "with tanh" in found.text
