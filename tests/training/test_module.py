"""The LightningModule: its loss, its totals and its predictions, against numbers by hand."""

import math

import pytest
import torch
from torch import nn

from replicate.run import Run
from replicate.training.module import Classifier


def test_loss_and_accuracy_by_hand() -> None:
    model = Classifier(nn.Identity(), Run("lsuv", "relu"))
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    labels = torch.tensor([1, 0, 0])
    # softmax: 1/2, 3/4 and 1/4 for the label
    expected = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3
    assert model.evaluate((logits, labels), "train")[0].item() == pytest.approx(expected, rel=1e-6)
    model.evaluate((logits[1:2], labels[1:2]), "train")
    loss, accuracy = model.take("train")
    assert loss == pytest.approx((3 * expected - math.log(3 / 4)) / 4, rel=1e-6)  # weighted by images
    assert accuracy == 50.0  # the argmax of a tie is the first class; only the second image is right, twice
    model.validation_step((logits[:1], labels[:1]), 0)
    assert model.take("val") == (pytest.approx(math.log(2), rel=1e-6), 0.0)


def test_predictions_are_of_the_latest_evaluation() -> None:
    model = Classifier(nn.Identity(), Run("lsuv", "relu"))
    first, second = torch.eye(3)[[0, 2]], torch.eye(3)[[1]]
    for _ in range(2):
        model.validation_step((first, torch.tensor([0, 0])), 0)
        model.validation_step((second, torch.tensor([0])), 1)
    assert model.predictions().tolist() == [0, 2, 1]
    model.validation_step((second, torch.tensor([0])), 0)
    assert model.predictions().tolist() == [1]
