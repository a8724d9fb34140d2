import os

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import dropout

from replicate.data import synthetic
from replicate.data.augment import augment
from replicate.data.batches import BatchStream
from replicate.data.dataset import Dataset, Images
from replicate.data.preprocess import PREPROCESSINGS, gcn_mean_image
from replicate.run import PREPROCESSINGS as NAMES


def by_numpy(train: Images, test: Images) -> tuple[np.ndarray, np.ndarray]:
    """The definition, an image at a time, in float64."""

    def gcn(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float64)
        return (image - image.mean()) / max(image.std(), 1e-8)

    normal = [np.stack([gcn(image) for image in images]) for images in (train, test)]
    mean_image = normal[0].mean(axis=0)
    return normal[0] - mean_image, normal[1] - mean_image


def test_the_registry_has_the_names_that_runs_know():
    assert tuple(PREPROCESSINGS) == NAMES


def test_against_the_definition():
    images, _ = synthetic.shapes(1340)  # no multiple of the chunk
    train, test = gcn_mean_image(images[:1240], images[1240:])
    assert train.dtype == test.dtype == torch.float32
    assert train.shape == (1240, 3, 32, 32)
    assert test.shape == (100, 3, 32, 32)
    expected = by_numpy(images[:1240], images[1240:])
    np.testing.assert_allclose(train.numpy(), expected[0], atol=2e-6)
    np.testing.assert_allclose(test.numpy(), expected[1], atol=2e-6)


def test_by_hand():
    # Half the values 10, half 30: mean 20, deviation 10, so GCN gives -1 and 1. Its negative gives 1 and -1: M = 0.
    image = np.full((3, 32, 32), 10, np.uint8)
    image[:, 16:] = 30
    train = np.stack([image, 40 - image])
    test = np.stack([image // 10])  # 1 and 3: contrast and brightness do not matter
    x, y = gcn_mean_image(train, test)
    assert torch.equal(x[0], torch.tensor(image / 10.0 - 2, dtype=torch.float32))
    assert torch.equal(y[0], x[0])


def test_an_image_of_one_colour_becomes_zero_before_the_mean_is_subtracted():
    image = np.zeros((3, 32, 32), np.uint8)
    image[:, 16:] = 200
    train = np.stack([image, np.full_like(image, 77)])
    x, _ = gcn_mean_image(train, train)
    mean_image = (image / 100.0 - 1) / 2  # (GCN(image) + 0) / 2
    np.testing.assert_allclose(x[1].numpy(), -mean_image, atol=1e-6)


def test_only_training_images_make_the_mean_image():
    images, _ = synthetic.shapes(120)
    one, _ = gcn_mean_image(images[:100], images[100:])
    other, _ = gcn_mean_image(images[:100], images[:5])
    assert torch.equal(one, other)
    np.testing.assert_allclose(one.mean(0).numpy(), 0, atol=1e-6)


def test_read_only_images_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder):
    images, _ = synthetic.shapes(20)
    images.flags.writeable = False
    gcn_mean_image(images, images)
    assert len(recwarn) == 0


def input_variances(dataset: Dataset, batches: int) -> tuple[float, float, float, Tensor]:
    """Measure the variance of plain images, padded crops, and crops after the input dropout."""
    train, _ = gcn_mean_image(dataset.train_images, dataset.test_images)
    stream = BatchStream(len(train), 128, torch.Generator().manual_seed(0), pad=8)
    crops = torch.cat(
        [
            augment(train[indices], offsets, mirror, 8)
            for indices, offsets, mirror in (next(stream) for _ in range(batches))
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = dropout(crops, 0.2)
    return train.var(correction=0).item(), crops.var(correction=0).item(), dropped.var(correction=0).item(), train


def test_input_variances_of_synthetic_images():
    plain, crops, dropped, train = input_variances(synthetic.draw(), 32)
    # Independently: of the 17 offsets, a row that is i from its nearest edge stays in the crop at 9 + min(i, 8).
    edge = torch.arange(32).minimum(31 - torch.arange(32)).clamp(max=8)
    stays = (9 + edge) / 17
    expected = (train.square().mean((0, 1)) * stays[:, None] * stays).mean().item()
    assert plain == pytest.approx(train.numpy().astype(np.float64).var(), rel=1e-4)
    assert crops == pytest.approx(expected, rel=0.01)
    assert dropped == pytest.approx(crops / 0.8, rel=0.01)


@pytest.mark.skipif(
    "REPLICATE_TEST_IMAGES" not in os.environ, reason="REPLICATE_TEST_IMAGES names no folder with real images"
)
def test_input_variances_of_real_images(real_images: Dataset):
    plain, crops, dropped, _ = input_variances(real_images, 40)
    assert plain == pytest.approx(0.97, abs=0.03)
    assert crops == pytest.approx(0.74, abs=0.03)
    assert dropped == pytest.approx(0.93, abs=0.03)
