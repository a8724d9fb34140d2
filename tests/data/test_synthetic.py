import hashlib

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from replicate.data import synthetic
from replicate.data.preprocess import gcn_mean_image


def test_the_same_pixels_for_ever():
    dataset = synthetic.draw()
    images = np.concatenate([dataset.train_images, dataset.test_images])
    # Whoever changes a pixel on purpose raises synthetic.VERSION and writes both new values here.
    assert synthetic.VERSION == 1
    assert (
        hashlib.sha256(images.tobytes()).hexdigest()
        == "5b44dedb056c2624294eb9cf20998728f4ad4931fea108b208703bd06e820530"
    )
    assert dataset.fingerprint == "6fe038e3069697e2f30c2705265a79feb37f32381ea4af188df6aac4a8af1cbb"


def test_ten_balanced_classes():
    dataset = synthetic.draw()
    assert dataset.label == "synthetic shapes"
    assert len(dataset.classes) == 10
    assert dataset.train_images.shape == (2000, 3, 32, 32)
    assert dataset.test_images.shape == (500, 3, 32, 32)
    assert dataset.train_labels.dtype == np.int64
    assert np.bincount(dataset.train_labels).tolist() == [200] * 10
    assert np.bincount(dataset.test_labels).tolist() == [50] * 10
    assert len(np.unique(dataset.train_images, axis=0)) == 2000


def test_mirroring_changes_no_class():
    grid = np.linspace(-1.2, 1.2, 97)  # symmetric about zero
    u, v = grid[None, :], grid[:, None]
    for name, shape in synthetic.SHAPES.items():
        inside = np.broadcast_to(shape(u, v), (97, 97))
        differ = (inside != inside[:, ::-1]).mean()
        assert differ < 0.03, name  # stripes may end in another pixel


def test_a_linear_model_fails_where_a_small_convolutional_one_succeeds():
    dataset = synthetic.draw()
    train, test = gcn_mean_image(dataset.train_images, dataset.test_images)
    labels, answers = torch.tensor(dataset.train_labels), torch.tensor(dataset.test_labels)

    def accuracy(net: nn.Module, steps: int) -> float:
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            batch = torch.randint(len(train), (64,), generator=generator)
            optimizer.zero_grad()
            cross_entropy(net(train[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            return (net(test).argmax(1) == answers).float().mean().item()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        convolutional = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 1, 1),
            nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
    assert accuracy(linear, 200) < 0.25  # measured: 0.13
    assert accuracy(convolutional, 80) > 0.8  # measured: 0.98
