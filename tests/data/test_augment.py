import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicate.data.augment import augment

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def naive(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Value by value: where it comes from, or zero where that is outside."""
    n, c, h, w = images.shape
    out = torch.zeros_like(images)
    for i in range(n):
        for y in range(h):
            for x in range(w):
                row = y + int(offsets[i, 0]) - pad
                column = (w - 1 - x if mirror[i] else x) + int(offsets[i, 1]) - pad
                if 0 <= row < h and 0 <= column < w:
                    for k in range(c):
                        out[i, k, y, x] = images[i, k, row, column]
    return out


def test_by_hand():
    image = torch.tensor([[[[1, 2], [3, 4]]]])
    crops = augment(
        image.expand(4, 1, 2, 2),
        torch.tensor([[1, 1], [0, 1], [1, 2], [1, 2]]),
        torch.tensor([False, False, False, True]),
        pad=1,
    )
    assert crops.squeeze(1).tolist() == [[[1, 2], [3, 4]], [[0, 0], [1, 2]], [[2, 0], [4, 0]], [[0, 2], [0, 4]]]


@given(st.data())
def test_against_the_naive_way(data: st.DataObject):
    n, c, h, w = (data.draw(st.integers(1, high)) for high in (4, 3, 5, 5))
    pad = data.draw(st.integers(0, 6))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    images = torch.randn(n, c, h, w, generator=generator)
    offsets = torch.randint(2 * pad + 1, (n, 2), generator=generator)
    mirror = torch.rand(n, generator=generator) < 0.5
    assert torch.equal(augment(images, offsets, mirror, pad), naive(images, offsets, mirror, pad))


@pytest.mark.parametrize("device", DEVICES)
def test_stays_on_the_device_and_leaves_its_input_alone(device: str):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 3, 32, 32, generator=generator)
    offsets = torch.randint(17, (16, 2), generator=generator)
    mirror = torch.rand(16, generator=generator) < 0.5
    there = images.to(device)
    crops = augment(there, offsets.to(device), mirror.to(device), 8)
    assert crops.device == there.device
    assert crops.shape == images.shape
    assert crops.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(there.cpu(), images)
    assert torch.equal(crops.cpu(), naive(images, offsets, mirror, 8))


def test_the_middle_offset_is_the_image_itself_and_mirroring_twice_too():
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    middle = torch.full((5, 2), 4)
    yes, no = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)
    assert torch.equal(augment(images, middle, no, 4), images)
    assert torch.equal(augment(images, middle, yes, 4), images.flip(3))
    assert torch.equal(augment(augment(images, middle, yes, 4), middle, yes, 4), images)
