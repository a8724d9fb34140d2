import math
from fractions import Fraction
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicate.data.batches import BatchStream, epoch_ends

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def stream(n: int, batch_size: int, pad: int = 8, seed: int = 0, device: str = "cpu") -> BatchStream:
    return BatchStream(n, batch_size, torch.Generator().manual_seed(seed), pad, device)


def joined(batches: BatchStream, images: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `images` draws of a stream as one."""
    count = -(-images // batches.batch_size)
    indices, offsets, mirror = (torch.cat(part) for part in zip(*islice(batches, count), strict=True))
    return indices[:images], offsets[:images], mirror[:images]


@given(n=st.integers(1, 40), batch_size=st.integers(1, 90), pad=st.integers(0, 8), seed=st.integers(0, 99))
def test_full_batches_cut_from_permutations(n: int, batch_size: int, pad: int, seed: int):
    batches = list(islice(stream(n, batch_size, pad, seed), 2 + 3 * n // batch_size))
    for indices, offsets, mirror in batches:
        assert indices.shape == (batch_size,)
        assert offsets.shape == (batch_size, 2)
        assert mirror.shape == (batch_size,)
        assert (indices.dtype, offsets.dtype, mirror.dtype) == (torch.int64, torch.int64, torch.bool)
        assert 0 <= offsets.min() <= offsets.max() <= 2 * pad
    order = torch.cat([indices for indices, _, _ in batches])
    for start in range(0, len(order) - n + 1, n):  # every whole pass
        assert order[start : start + n].sort().values.tolist() == list(range(n))
    rest = order[len(order) - len(order) % n :]
    assert len(rest.unique()) == len(rest)


@given(n=st.integers(1, 40), sizes=st.tuples(st.integers(1, 90), st.integers(1, 90)), seed=st.integers(0, 99))
def test_the_batch_size_only_cuts(n: int, sizes: tuple[int, int], seed: int):
    one, other = (joined(stream(n, size, seed=seed), 3 * n + 5) for size in sizes)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_padding_does_not_move_the_order_nor_the_mirroring():
    off, on, wide = (joined(stream(50, 16, pad), 400) for pad in (0, 8, 20))
    assert torch.equal(off[0], on[0])
    assert torch.equal(off[0], wide[0])
    assert torch.equal(off[2], on[2])
    assert off[1].max() == 0


def test_every_pass_is_drawn_afresh():
    indices, offsets, mirror = joined(stream(500, 100), 1000)
    assert not torch.equal(indices[:500], indices[500:])
    assert not torch.equal(offsets[:500], offsets[500:])
    assert not torch.equal(mirror[:500], mirror[500:])


def test_the_generator_alone_decides():
    same, again, other = joined(stream(99, 7), 500), joined(stream(99, 7), 500), joined(stream(99, 7, seed=1), 500)
    torch.manual_seed(1)
    assert all(torch.equal(a, b) for a, b in zip(same, again, strict=True))
    assert not torch.equal(same[0], other[0])


def test_offsets_and_mirror_bits_are_uniform():
    n = 34_000
    _, offsets, mirror = next(stream(n, n))
    for axis in (0, 1):
        counts = offsets[:, axis].bincount(minlength=17)
        assert len(counts) == 17
        # 2,000 are expected at each offset; the sum is chi-square with 16 degrees of freedom, 39.3 its 99.9 % point
        assert ((counts - 2000.0).square() / 2000).sum() < 39.3
    pairs = (offsets[:, 0] * 17 + offsets[:, 1]).bincount(minlength=289)
    assert ((pairs - n / 289).square() / (n / 289)).sum() < 365.9  # 288 degrees of freedom
    assert abs(mirror.sum().item() - n / 2) < 3.3 * math.sqrt(n) / 2


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_batches_on_every_device(device: str):
    here, there = stream(50, 16), stream(50, 16, device=device)
    for _ in range(10):
        for a, b in zip(next(here), next(there), strict=True):
            assert b.device.type == device
            assert torch.equal(a, b.cpu())


def test_batches_are_counted():
    batches = stream(10, 3)
    assert batches.taken == 0
    next(batches), next(batches)
    assert batches.taken == 2


def test_epoch_ends_of_the_paper():
    ends = epoch_ends(50_000, 128, 90_000)
    assert ends[:3] == [391, 782, 1172]
    assert ends[-2:] == [89_844, 90_000]  # 230 passes of 390.625 iterations make 89,843.75
    assert len(ends) == 231


def test_the_last_iteration_is_listed_once():
    assert epoch_ends(100, 10, 30) == [10, 20, 30]
    assert epoch_ends(100, 10, 25) == [10, 20, 25]
    assert epoch_ends(100, 10, 3) == [3]
    assert epoch_ends(100, 100, 3) == [1, 2, 3]
    assert epoch_ends(100, 1000, 3) == [1, 2, 3]


@given(n=st.integers(1, 99), batch_size=st.integers(1, 50), iterations=st.integers(1, 60))
def test_epoch_ends_by_the_definition(n: int, batch_size: int, iterations: int):
    passes = (math.ceil(Fraction(k * n, batch_size)) for k in range(1, iterations * batch_size + 1))
    expected = {end for end in passes if end <= iterations} | {iterations}
    assert epoch_ends(n, batch_size, iterations) == sorted(expected)
