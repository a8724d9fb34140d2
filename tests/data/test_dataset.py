import hashlib

import numpy as np
import pytest

from replicate.data.dataset import Dataset, fingerprint


def test_fingerprint_is_the_sha256_of_the_sorted_lines():
    digest = hashlib.sha256(b"test/b/1.png 22\ntrain/a/1.png 11\n").hexdigest()
    assert fingerprint(["train/a/1.png 11", "test/b/1.png 22"]) == digest


def test_fingerprint_takes_names_that_are_no_utf8():
    assert fingerprint(["train/\udcff 1"]) == hashlib.sha256(b"train/\xff 1\n").hexdigest()


def test_arrays_cannot_be_written():
    images, labels = np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64)
    dataset = Dataset("label", "0", ("a", "b"), images, labels, images.copy(), labels.copy())
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_images[0] = 1
