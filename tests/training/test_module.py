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
    assert model.evaluate(logits, labels, "train").item() == pytest.approx(expected, rel=1e-6)
    model.evaluate(logits[1:2], labels[1:2], "train")
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
    classes, probabilities = model.predictions()
    assert classes.tolist() == [0, 2, 1]
    torch.testing.assert_close(probabilities, torch.eye(3)[[0, 2, 1]].softmax(1))
    model.validation_step((second, torch.tensor([0])), 0)
    assert model.predictions()[0].tolist() == [1]


def test_the_average_of_the_weights_by_hand() -> None:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1.0)
    model = Classifier(net, Run("lsuv", "relu", ema=0.75))
    nn.init.constant_(net.weight, 5.0)
    model.finish_iteration()
    assert model.averaged.weight.item() == 0.75 * 1 + 0.25 * 5
    model.finish_iteration()
    assert model.averaged.weight.item() == 0.75 * 2 + 0.25 * 5
    assert (model.iteration, net.weight.item()) == (2, 5.0)
    nn.init.zeros_(net.bias), nn.init.zeros_(model.averaged.bias)
    assert model.test_logits(torch.ones(1, 1)).item() == 2.75
    assert Classifier(net, Run("lsuv", "relu")).averaged is None


def test_the_average_tests_with_the_running_statistics_of_batch_normalisation() -> None:
    net = nn.BatchNorm1d(2)
    model = Classifier(net, Run("lsuv", "relu", ema=0.9))
    net(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    model.finish_iteration()
    assert model.averaged.running_mean.tolist() == pytest.approx([0.2, 0.4])
    assert torch.equal(model.averaged.running_var, net.running_var)
    assert model.averaged.num_batches_tracked.item() == 1


def test_both_mirror_images_are_tested_and_their_probabilities_averaged() -> None:
    model = Classifier(nn.Flatten(), Run("lsuv", "relu", test_mirror=True))
    images = torch.randn(5, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    model.validation_step((images, torch.zeros(5, dtype=torch.int64)), 0)
    expected = (images.flatten(1).softmax(1) + images.flip(3).flatten(1).softmax(1)) / 2
    classes, probabilities = model.predictions()
    torch.testing.assert_close(probabilities, expected)
    assert torch.equal(classes, expected.argmax(1))
    assert model.take("val")[0] == pytest.approx(-expected[:, 0].log().mean().item(), rel=1e-6)
