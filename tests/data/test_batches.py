import math
import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicate.data import folder, synthetic
from replicate.data.batches import BatchStream, augment, epoch_ends, gcn_mean_image

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.filterwarnings("error")
def test_preprocessing_by_its_definition() -> None:
    images, _ = synthetic.shapes(1340)  # not a multiple of the chunk
    images[5] = 77  # an image of one colour
    images.flags.writeable = False  # as those of a data set
    found = gcn_mean_image(images[:1240], images[1240:])
    flat = images.reshape(1340, -1).astype(np.float64)
    normal = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True).clip(1e-8)
    expected = (normal - normal[:1240].mean(0)).reshape(images.shape)
    for x, part in zip(found, (expected[:1240], expected[1240:]), strict=True):
        assert x.dtype == torch.float32
        np.testing.assert_allclose(x.numpy(), part, atol=2e-6)


@pytest.mark.skipif(
    "REPLICATE_TEST_IMAGES" not in os.environ, reason="REPLICATE_TEST_IMAGES names no folder with real images"
)
def test_input_variances_of_real_images() -> None:
    images = folder.load("cifar10-lossless-6k", Path(os.environ["REPLICATE_TEST_IMAGES"]))
    train, _ = gcn_mean_image(images.train_images, images.test_images)
    batches = islice(stream(len(train), 128), 40)
    crops = torch.cat([augment(train[indices], *drawn, pad=8) for indices, *drawn in batches])
    assert train.var().item() == pytest.approx(0.97, abs=0.03)
    assert crops.var().item() == pytest.approx(0.74, abs=0.03)


def stream(n: int, batch_size: int, pad: int = 8, seed: int = 0, device: str = "cpu") -> BatchStream:
    return BatchStream(n, batch_size, torch.Generator().manual_seed(seed), pad, device)


def joined(batches: BatchStream, images: int) -> list[Tensor]:
    """The first `images` draws of a stream as one: indices, offsets, mirror bits."""
    count = -(-images // batches.batch_size)
    return [torch.cat(part)[:images] for part in zip(*islice(batches, count), strict=True)]


@given(n=st.integers(1, 40), batch_size=st.integers(1, 90), other_size=st.integers(1, 90), pad=st.integers(0, 8))
def test_full_batches_of_permutations_whatever_their_size(n: int, batch_size: int, other_size: int, pad: int) -> None:
    batches = stream(n, batch_size, pad)
    count = 2 + 3 * n // batch_size
    drawn = list(islice(batches, count))
    for indices, offsets, mirror in drawn:
        assert (indices.shape, offsets.shape, mirror.shape) == ((batch_size,), (batch_size, 2), (batch_size,))
        assert (indices.dtype, offsets.dtype, mirror.dtype) == (torch.int64, torch.int64, torch.bool)
        assert 0 <= offsets.min() <= offsets.max() <= 2 * pad
    assert batches.taken == count
    whole = [torch.cat(part) for part in zip(*drawn, strict=True)]
    for part in whole[0].split(n):  # whole passes, and the beginning of one
        assert sorted(part.tolist()) == list(range(n)) or len(part.unique()) == len(part) < n
    assert all(map(torch.equal, whole, joined(stream(n, other_size, pad), count * batch_size)))


def test_every_pass_is_drawn_again_and_padding_changes_only_the_offsets() -> None:
    off, on = (joined(stream(500, 100, pad), 1000) for pad in (0, 8))
    assert torch.equal(off[0], on[0])
    assert torch.equal(off[2], on[2])
    assert off[1].max() == 0
    assert not any(torch.equal(part[:500], part[500:]) for part in on)


def test_offsets_and_mirror_bits_are_uniform() -> None:
    n = 34_000
    _, offsets, mirror = next(stream(n, n))
    pairs = (offsets[:, 0] * 17 + offsets[:, 1]).bincount(minlength=289)
    assert len(pairs) == 289
    # chi-square with 288 degrees of freedom, whose 99.9 % point is 365.9
    assert ((pairs - n / 289).square() / (n / 289)).sum() < 365.9
    assert abs(mirror.sum().item() - n / 2) < 3.3 * math.sqrt(n) / 2


def naive(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Image by image: crop the padded image, then mirror it."""
    _, _, h, w = images.shape
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    crops = [image[:, y : y + h, x : x + w] for image, (y, x) in zip(padded, offsets.tolist(), strict=True)]
    return torch.tensor(np.stack([crop[:, :, :: -1 if flip else 1] for crop, flip in zip(crops, mirror, strict=True)]))


@pytest.mark.parametrize("device", DEVICES)
@given(st.tuples(*(st.integers(1, high) for high in (4, 3, 5, 5))), st.integers(0, 6), st.integers(0, 1000))
def test_augment_against_the_naive_way(device: str, shape: tuple[int, ...], pad: int, seed: int) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    indices, offsets, mirror = next(stream(len(images), 7, pad, seed))
    batch = next(stream(len(images), 7, pad, seed, device))
    crops = augment(images.to(device)[batch[0]], *batch[1:], pad)
    assert crops.device.type == device
    assert crops.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(crops.cpu(), naive(images[indices], offsets, mirror, pad))


@given(n=st.integers(1, 99), batch_size=st.integers(1, 120), iterations=st.integers(1, 60))
def test_epoch_ends_by_the_definition(n: int, batch_size: int, iterations: int) -> None:
    passes = (math.ceil(Fraction(k * n, batch_size)) for k in range(1, iterations * batch_size + 1))
    expected = {end for end in passes if end <= iterations} | {iterations}
    assert epoch_ends(n, batch_size, iterations) == sorted(expected)
    assert epoch_ends(50_000, 128, 90_000)[:3] == [391, 782, 1172]
