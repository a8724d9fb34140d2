"""Short trainings: a net that does not learn, a leak, and what chance explains. In test_check.py both pass."""

from itertools import permutations

import numpy as np
import pytest

from replicate.checks.common import SMALL
from replicate.checks.trainings import learn_by_heart, learn_shuffled_labels, most_by_chance
from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset
from replicate.run import Run
from replicate.training.module import Classifier


def test_a_net_that_is_not_trained_knows_nothing_by_heart(
    shapes: Dataset, tiny: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SMALL, "iterations", 10)
    monkeypatch.setattr(Classifier, "learning_rate", lambda self, iteration: 0.0)
    assert learn_by_heart([tiny], shapes).verdict == "failed"


def test_a_training_on_test_images_fails(shapes: Dataset, tiny: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = DeviceData.__init__

    def leaking(self: DeviceData, train, test, *others, **named) -> None:
        prepare(self, test, test, *others, **named)

    monkeypatch.setattr(DeviceData, "__init__", leaking)
    found = learn_shuffled_labels([tiny], shapes)
    assert found.verdict == "failed"
    assert found.text.startswith("100 % of 20 test images are right after ")


def test_chance_by_all_permutations() -> None:
    """The mean and the variance over all 24 permutations of four classes, one by one."""
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(4, size=30), rng.integers(4, size=30)
    accuracies = [100 * np.mean(np.array(names)[predicted] == labels) for names in permutations(range(4))]
    assert np.mean(accuracies) == pytest.approx(25)
    assert most_by_chance(labels, predicted, 4) == pytest.approx(25 + 4 * np.std(accuracies))


def test_chance_with_one_predicted_class() -> None:
    labels = np.repeat(np.arange(10), 3)
    assert most_by_chance(labels, np.full(30, 7), 10) == pytest.approx(10)
