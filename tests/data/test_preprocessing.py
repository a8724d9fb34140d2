"""Preprocessing against its definitions in NumPy, in float64."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from replicate.data import folder, preprocessing, synthetic
from replicate.data.augmentation import crop
from replicate.data.batches import BatchStream
from replicate.names import PREPROCESSINGS, resolve

Floats = npt.NDArray[np.float64]


def gcn(x: Floats) -> Floats:
    flat = x.reshape(len(x), -1)
    normal = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True).clip(1e-8)
    return normal.reshape(x.shape)


# name -> what it makes of images (n, c, h, w), given the training images
DEFINITIONS = {
    "none": lambda x, train: x / 255,
    "zero-centre": lambda x, train: (x - train.mean()) / 255,
    "mean-image": lambda x, train: (x - train.mean(0)) / 255,
    "channel-mean": lambda x, train: (x - train.mean((0, 2, 3), keepdims=True)) / 255,
    "channel-mean-std": lambda x, train: (
        (x - train.mean((0, 2, 3), keepdims=True)) / train.std((0, 2, 3), keepdims=True)
    ),
    "gcn": lambda x, train: gcn(x),
    "gcn-mean-image": lambda x, train: gcn(x) - gcn(train).mean(0),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_by_its_definition(name: str) -> None:
    images, _ = synthetic.shapes(1340)  # not a multiple of the chunk
    images[5] = 77  # an image of one colour
    images.flags.writeable = False  # as those of a data set
    values = images.astype(np.float64)
    found = resolve(PREPROCESSINGS[name])(images[:1240], images[1240:])
    for x, part in zip(found, (values[:1240], values[1240:]), strict=True):
        assert x.dtype == torch.float32
        np.testing.assert_allclose(x.numpy(), DEFINITIONS[name](part, values[:1240]), atol=3e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["pca-whitening", "zca-whitening"])
def test_the_whitened_covariance_is_the_identity(name: str) -> None:
    random = np.random.default_rng(0)
    mixing = np.eye(48) + 0.05 * random.normal(size=(48, 48))
    normal = random.normal(size=(1700, 48)) @ mixing
    images = (128 + 25 * normal).clip(0, 255).astype(np.uint8).reshape(1700, 3, 4, 4)
    train, test = resolve(PREPROCESSINGS[name])(images[:1500], images[1500:])
    flat = train.double().flatten(1)
    np.testing.assert_allclose(flat.mean(0), np.zeros(48), atol=1e-5)
    np.testing.assert_allclose(flat.T @ flat / 1500, np.eye(48), atol=0.02)  # less by EPSILON / variance
    centred = (images - images[:1500].mean(0)).reshape(1700, 48) / 255
    transform = np.linalg.lstsq(centred[:1500], train.flatten(1).numpy(), rcond=None)[0]
    np.testing.assert_allclose(centred[1500:] @ transform, test.flatten(1), atol=2e-3)  # the same map for the test set
    if name == "zca-whitening":
        np.testing.assert_allclose(transform, transform.T, atol=1e-3 * abs(transform).max())
    else:  # rotated: the lengths of its columns are 1 / √(variance + EPSILON), in ascending order
        variances = np.linalg.eigvalsh(np.cov(centred[:1500].T, bias=True))[::-1]
        lengths = np.linalg.norm(transform, axis=0)
        np.testing.assert_allclose(lengths, 1 / np.sqrt(variances + preprocessing.EPSILON), rtol=1e-3)


def test_directions_without_variance_stay_small() -> None:
    images = synthetic.shapes(40)[0][:, :, 8:16, 8:16].copy()  # 192 values of 40 images
    images[:, :, :, 0] = 7
    for whiten in (preprocessing.pca_whitening, preprocessing.zca_whitening):
        train, test = whiten(images[:30], images[30:])
        assert train.isfinite().all()
        assert test.isfinite().all()
    assert train[:, :, :, 0].abs().max() < 1e-3


@pytest.mark.skipif(
    "REPLICATE_TEST_IMAGES" not in os.environ, reason="REPLICATE_TEST_IMAGES names no folder with real images"
)
def test_input_variances_of_real_images() -> None:
    images = folder.load("cifar10-lossless-6k", Path(os.environ["REPLICATE_TEST_IMAGES"]))
    train, _ = preprocessing.gcn_mean_image(images.train_images, images.test_images)
    batches = islice(BatchStream(len(train), 128, torch.Generator().manual_seed(0), 8), 40)
    crops = torch.cat([crop(train[indices], offsets, mirror, pad=8) for indices, offsets, mirror, _ in batches])
    assert train.var().item() == pytest.approx(0.97, abs=0.03)
    assert crops.var().item() == pytest.approx(0.74, abs=0.03)
