"""Augmentations against plain loops over images and pixels."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicate.data.augmentation import Augmentation, crop, cut_out, jitter_colours, zoom
from replicate.data.batches import NUMBERS, BatchStream
from replicate.run import Run

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = st.tuples(*(st.integers(1, high) for high in (4, 3, 9, 9)))  # n c h w


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_and_numbers(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(shape, generator=seeded(seed)).contiguous(memory_format=torch.channels_last)
    return images, torch.rand(shape[0], NUMBERS, generator=seeded(seed + 1))


def naive(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Image by image: crop the padded image, then mirror it."""
    _, _, h, w = images.shape
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    crops = [image[:, y : y + h, x : x + w] for image, (y, x) in zip(padded, offsets.tolist(), strict=True)]
    return torch.tensor(np.stack([crop[:, :, :: -1 if flip else 1] for crop, flip in zip(crops, mirror, strict=True)]))


@pytest.mark.parametrize("device", DEVICES)
@given(st.tuples(*(st.integers(1, high) for high in (4, 3, 5, 5))), st.integers(0, 6), st.integers(0, 1000))
def test_crop_against_the_naive_way(device: str, shape: tuple[int, ...], pad: int, seed: int) -> None:
    images = torch.randn(shape, generator=seeded(seed))
    indices, offsets, mirror, _ = next(BatchStream(len(images), 7, seeded(seed), pad))
    batch = next(BatchStream(len(images), 7, seeded(seed), pad, device))
    crops = crop(images.to(device)[batch[0]], *batch[1:3], pad)
    assert crops.device.type == device
    assert crops.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops.cpu(), naive(images[indices], offsets, mirror, pad))


@pytest.mark.parametrize("device", DEVICES)
@given(SHAPES, st.floats(0, 0.9), st.integers(0, 1000))
def test_zoom_pixel_by_pixel(device: str, shape: tuple[int, ...], strength: float, seed: int) -> None:
    images, numbers = images_and_numbers(shape, seed)
    n, _, h, w = shape
    expected = torch.zeros_like(images)
    for i in range(n):
        factor = 1 + (2 * float(numbers[i, 4]) - 1) * strength
        for y in range(h):
            for x in range(w):
                row = math.floor((y + 0.5 - h / 2) / factor + h / 2)
                column = math.floor((x + 0.5 - w / 2) / factor + w / 2)
                if 0 <= row < h and 0 <= column < w:
                    expected[i, :, y, x] = images[i, :, row, column]
    assert torch.equal(zoom(images.to(device), numbers[:, 4].to(device), strength).cpu(), expected)


def test_zoom_by_hand() -> None:
    image = torch.tensor([[[[1.0, 2, 3, 4]] * 4]])
    # By 1.5 the centres of the pixels come from 1, 1.67, 2.33 and 3; by 0.5 from -1, 1, 3 and 5.
    assert zoom(image, torch.tensor([1.0]), 0.5)[0, 0, 1].tolist() == [2, 2, 3, 4]
    assert zoom(image, torch.tensor([0.0]), 0.5)[0, 0].tolist() == [
        [0, 0, 0, 0],
        [0, 2, 4, 0],
        [0, 2, 4, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("device", DEVICES)
@given(SHAPES, st.integers(1, 12), st.integers(0, 1000))
def test_cutout_pixel_by_pixel(device: str, shape: tuple[int, ...], side: int, seed: int) -> None:
    images, numbers = images_and_numbers(shape, seed)
    expected = images.clone()
    for image, (row, column) in zip(expected, numbers[:, 5:].tolist(), strict=True):
        top, left = (int(number * size) - side // 2 for number, size in ((row, shape[2]), (column, shape[3])))
        image[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    assert torch.equal(cut_out(images.to(device), numbers[:, 5:].to(device), side).cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [3, 1])
def test_colour_jitter_by_its_formula(device: str, channels: int) -> None:
    images, numbers = images_and_numbers((500, channels, 5, 4), 0)
    numbers = numbers[:, : 1 + channels]
    found = jitter_colours(images.to(device), numbers.to(device), 0.4, 2.5).cpu()
    u = 2 * numbers.double().numpy() - 1
    factor, shift = 1 + 0.4 * u[:, 0, None, None, None], 0.4 * 2.5 * u[:, 1:, None, None]
    np.testing.assert_allclose(found.numpy(), images.double().numpy() * factor + shift, atol=1e-5)
    assert torch.equal(found, jitter_colours(images, numbers, 0.4, 2.5))  # the same bits on every device


def test_each_augmentation_is_off_by_default_and_changes_images_on_its_own() -> None:
    images, numbers = images_and_numbers((64, 3, 8, 8), 0)
    offsets, mirror = torch.full((64, 2), 8), torch.zeros(64, dtype=torch.bool)

    def augmented(**settings: object) -> Tensor:
        return Augmentation(Run("lsuv", "relu", **settings), 1.0)(images, offsets, mirror, numbers)

    assert torch.equal(augmented(), images)
    for settings in ({"zoom": 0.3}, {"colour_jitter": 0.4}, {"cutout": 4}):
        changed = (augmented(**settings) != images).flatten(1).any(1).float().mean()
        assert changed > 0.5  # small zooms do not move the few pixels
    one_after_another = jitter_colours(images, numbers[:, :4], 0.4, 1.0)
    one_after_another = cut_out(zoom(one_after_another, numbers[:, 4], 0.3), numbers[:, 5:], 4)
    assert torch.equal(augmented(zoom=0.3, colour_jitter=0.4, cutout=4), one_after_another)


def test_grey_images_stay_grey() -> None:
    images, numbers = images_and_numbers((4, 1, 8, 8), 0)
    run = Run("lsuv", "relu", zoom=0.3, colour_jitter=0.4, cutout=4)
    offsets, mirror = torch.full((4, 2), 8), torch.zeros(4, dtype=torch.bool)
    assert Augmentation(run, 1.0)(images, offsets, mirror, numbers).shape == images.shape


def test_the_order_of_the_images_does_not_depend_on_augmentation() -> None:
    first, second = (islice(BatchStream(50, 8, seeded(0), 4), 20) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))
