"""Which training images are held out for validation."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.data.dataset import Dataset
from replicate.data.validation import check_number, held_out, hold_out
from replicate.errors import UsageError


def test_by_hand() -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])  # 4 of 10 images: 2.4 of class 0 and 1.6 of class 1
    assert np.flatnonzero(held_out(labels, 4)).tolist() == [1, 4, 7, 9]
    assert np.flatnonzero(held_out(labels, 1)).tolist() == [3]  # 0.6 of class 0 and 0.4 of class 1


def test_a_class_keeps_a_training_image_if_it_can() -> None:
    labels = np.repeat([0, 1, 2], [1, 9, 2])
    rest = labels[~held_out(labels, 6)].tolist()
    assert {0, 1, 2} == {*rest}
    assert len(held_out(np.arange(4), 2)) == 4  # here it cannot


@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.data())
def test_each_class_is_held_out_in_proportion(classes: list[int], data: st.DataObject) -> None:
    labels = np.array(classes)
    number = data.draw(st.integers(0, len(labels) // 2))
    chosen = held_out(labels, number)
    assert chosen.sum() == number
    found = Counter(labels[chosen].tolist())
    for label, count in Counter(classes).items():
        assert abs(found[label] - number * count / len(labels)) <= 1


def test_the_parts_are_the_training_images_and_no_test_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (110, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(110) % 10
    shapes = Dataset("shapes", "f" * 64, tuple("abcdefghij"), images[:100], labels[:100], images[100:], labels[100:])
    assert hold_out(shapes, 0) is shapes
    split = hold_out(shapes, 20)
    assert (len(split.train_labels), len(split.test_labels)) == (len(shapes.train_labels) - 20, 20)
    assert [*Counter(split.test_labels.tolist()).values()] == [2] * 10
    parts = [{image.tobytes() for image in part} for part in (split.train_images, split.test_images)]
    assert parts[0] | parts[1] == {image.tobytes() for image in shapes.train_images}
    assert not parts[0] & parts[1]
    assert (split.label, split.fingerprint) == (f"{shapes.label} (20 validation images)", shapes.fingerprint)
    for image, label in zip(split.test_images, split.test_labels, strict=True):
        place = next(i for i, other in enumerate(shapes.train_images) if np.array_equal(image, other))
        assert shapes.train_labels[place] == label


def test_at_most_half_of_the_training_images_are_held_out() -> None:
    check_number(20, 41)
    with pytest.raises(
        UsageError, match=r"^validation = 21 is more than half of the 41 training images; give 0 to 20$"
    ):
        check_number(21, 41)
