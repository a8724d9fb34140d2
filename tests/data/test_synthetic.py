import hashlib
from pathlib import Path

import numpy as np

from replicate.data import load, synthetic


def test_the_same_pixels_for_ever() -> None:
    dataset = load("synthetic", Path())
    images = np.concatenate([dataset.train_images, dataset.test_images])
    # To change a pixel on purpose, raise synthetic.VERSION and write both new values here.
    assert synthetic.VERSION == 1
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "5b44dedb056c2624294eb9cf20998728f4ad4931fea108b208703bd06e820530"
    assert dataset.fingerprint == "6fe038e3069697e2f30c2705265a79feb37f32381ea4af188df6aac4a8af1cbb"
    labels = [*dataset.train_labels, *dataset.test_labels]
    assert labels == [index % 10 for index in range(2500)]  # ten balanced classes
    assert len(dataset.classes) == 10


def test_mirroring_changes_no_class() -> None:
    grid = np.linspace(-1.2, 1.2, 97)  # symmetric about zero
    u, v = grid[None, :], grid[:, None]
    for name, shape in synthetic.SHAPES.items():
        inside = np.broadcast_to(shape(u, v), (97, 97))
        assert (inside != inside[:, ::-1]).mean() < 0.03, name  # stripes may end in another pixel
