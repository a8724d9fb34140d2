"""Checks by short trainings of a small net: a few images by heart, and shuffled labels."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.callbacks import LambdaCallback

from replicate.checks.common import SMALL, Finding, sample, start
from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset, Labels
from replicate.options import Options
from replicate.report.text import count
from replicate.run import Run
from replicate.training.build import make_trainer
from replicate.training.module import Classifier

IMAGES = 20  # to learn by heart
MAX_DEVIATIONS = 4.0  # standard deviations above chance


def learn_by_heart(runs: Sequence[Run], dataset: Dataset) -> Finding:
    """Train a small net on 20 images, which are its test images too, until it knows all of them."""
    few = sample(dataset, train=IMAGES, test=IMAGES)
    few = replace(few, test_images=few.train_images, test_labels=few.train_labels)
    module, accuracy = train(replace(runs[0], **SMALL), few)
    text = f"{accuracy:.0f} % of {count(len(few.test_labels), 'image')} are right"
    text += f" after {count(module.iteration, 'iteration')} of a small net with LSUV and tanh"
    return Finding("ok" if accuracy == 100 else "failed", text)


def learn_shuffled_labels(runs: Sequence[Run], dataset: Dataset) -> Finding:
    """Train the small net on 20 images with shuffled labels. It can know others only if test images or labels leak.

    Few images, because the net learns them by heart: of leaked ones it would know all.
    """
    few = sample(dataset, train=IMAGES, test=IMAGES)
    shuffled = replace(few, train_labels=np.random.default_rng(0).permutation(few.train_labels))
    module, accuracy = train(replace(runs[0], **{**SMALL, "iterations": 60}), shuffled)
    most = most_by_chance(few.test_labels, module.predictions()[0].numpy(), len(few.classes))
    text = f"{accuracy:.0f} % of {count(len(few.test_labels), 'test image')} are right"
    text += f" after {count(module.iteration, 'iteration')}; chance explains up to {most:.0f} %"
    return Finding("ok" if accuracy <= most else "failed", text)


def most_by_chance(labels: Labels, predicted: Labels, classes: int) -> float:
    """Return the highest accuracy that chance explains: 100 / classes plus four standard deviations, in %.

    A net gives similar images the same class, so all images of a class may be right together, and the binomial variance
    is too small. But a net that has learned nothing of the labels does not know the names of the classes: it might as
    well have predicted any permutation of them. This is the variance over all permutations. With fewer than six
    classes, even an accuracy of 100 % is within four deviations.

    Args:
        labels: of the test images (n,).
        predicted: classes (n,).
        classes: their number.
    """
    shares = np.zeros((classes, classes))  # of the images, by label and predicted class
    np.add.at(shares, (labels, predicted), 1 / len(labels))
    centred = shares - shares.mean(0) - shares.mean(1, keepdims=True) + shares.mean()
    variance = float((centred**2).sum()) / (classes - 1)  # Hoeffding 1951, "A combinatorial central limit theorem"
    return 100 * (1 / classes + MAX_DEVIATIONS * math.sqrt(variance))


def train(run: Run, dataset: Dataset) -> tuple[Classifier, float]:
    """Initialise and train a net as a run does, on the CPU. Returns it, and its accuracy as `fit` does."""
    module, data = start(run, dataset)
    return module, fit(run, module, data)


def fit(run: Run, module: Classifier, data: DeviceData) -> float:
    """Train a net on the CPU until it knows all test images or reaches the last iteration.

    Returns:
        The accuracy on the test images in %, as a run measures it.

    Raises:
        DivergedError: the loss is not finite.
    """
    accuracies = [0.0]

    def stop_early(trainer: Any, module: Any) -> None:
        accuracies.append(module.take("val")[1])
        trainer.should_stop = accuracies[-1] == 100

    trainer = make_trainer(run, Options(Path()), data, [LambdaCallback(on_validation_end=stop_early)])
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # Lightning ends the process on Ctrl-C
        raise KeyboardInterrupt from None
    return accuracies[-1]
