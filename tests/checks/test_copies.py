"""Images in both train and test, and images with two labels."""

from dataclasses import replace

from replicate.checks.copies import find_copies
from replicate.data.dataset import Dataset


def test_different_images_are_no_copies(shapes: Dataset) -> None:
    found = find_copies(shapes)
    assert found.verdict == "ok"
    assert found.text == (
        "0 of 500 test images are training images too; 0 of 2,000 training images have a second label"
    )


def test_a_test_split_that_was_copied_from_the_training_images_fails(shapes: Dataset) -> None:
    images, labels = shapes.test_images.copy(), shapes.test_labels
    images[7], images[9] = shapes.train_images[1234], shapes.train_images[5]
    found = find_copies(replace(shapes, test_images=images, test_labels=labels))
    assert found.verdict == "failed"
    # the classes take turns
    assert (
        "2 of 500 test images are training images too, such as test image 7 (rows), training image 1234 (triangle);"
        in (found.text)
    )


def test_one_pixel_makes_another_image_and_a_few_copies_are_only_noted(shapes: Dataset) -> None:
    images = shapes.train_images.copy()
    images[1000] = images[998]
    images[1001] = images[998]
    images[1001, 2, 31, 31] ^= 1
    found = find_copies(replace(shapes, train_images=images))
    assert found.verdict == "note"
    expected = "1 of 2,000 training images have a second label, such as training images 1000 (disc) and 998 (columns)"
    assert found.text.endswith(expected)
    images = images.copy()  # a data set makes its arrays read-only
    images[1002], images[1003] = images[998], images[998]
    assert find_copies(replace(shapes, train_images=images)).verdict == "failed"
