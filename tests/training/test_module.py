"""The LightningModule: its loss, its totals and its optimiser, against numbers by hand."""

import math

import pytest
import torch
from torch import nn

from replicate.training.module import Classifier, DivergedError

PROTOCOL = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "milestones": (2, 4), "lr_factor": 0.1}


def classifier(net: nn.Module | None = None) -> Classifier:
    return Classifier(net or nn.Linear(2, 2), **PROTOCOL)


def test_loss_and_accuracy_by_hand() -> None:
    model = classifier(nn.Identity())
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    labels = torch.tensor([1, 0, 0])
    # softmax: 1/2, 3/4 and 1/4 for the label
    expected = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3
    assert model.training_step((logits, labels), 0).item() == pytest.approx(expected, rel=1e-6)
    model.training_step((logits[1:2], labels[1:2]), 1)
    loss, accuracy = model.take("train")
    assert loss == pytest.approx((3 * expected - math.log(3 / 4)) / 4, rel=1e-6)  # weighted by images
    assert accuracy == 50.0  # argmax of a tie is the first; right are the second image, twice
    model.validation_step((logits[:1], labels[:1]), 0)
    assert model.take("val") == (pytest.approx(math.log(2), rel=1e-6), 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training(bad: float) -> None:
    with pytest.raises(DivergedError):
        classifier(nn.Identity()).training_step((torch.tensor([[bad, 0.0]]), torch.tensor([1])), 0)


def test_biases_have_no_weight_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    groups = classifier(net).configure_optimizers()["optimizer"].param_groups
    decay = {parameter.shape: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay == {(2, 1, 3, 3): 5e-4, (2, 2): 5e-4, (2,): 0.0}


def test_updates_and_milestones_by_hand() -> None:
    weight = nn.Linear(1, 1)
    nn.init.constant_(weight.weight, 2.0)
    configured = classifier(weight).configure_optimizers()
    sgd, steps = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert configured["lr_scheduler"]["interval"] == "step"
    w, v, rates = 2.0, 0.0, []
    for _ in range(6):
        weight.weight.grad = torch.ones(1, 1)
        rates.append(sgd.param_groups[0]["lr"])
        v = 0.9 * v + 1 + 5e-4 * w  # gradient 1, decay on the weight
        w -= rates[-1] * v
        sgd.step()
        steps.step()
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])  # divided by 10 at iterations 2 and 4
    assert weight.weight.item() == pytest.approx(w, rel=1e-6)
