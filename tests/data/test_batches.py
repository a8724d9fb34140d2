import math
from fractions import Fraction
from itertools import islice

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from replicate.data.batches import NUMBERS, BatchStream, epoch_ends


def stream(n: int, batch_size: int, pad: int = 8, seed: int = 0, device: str = "cpu") -> BatchStream:
    return BatchStream(n, batch_size, torch.Generator().manual_seed(seed), pad, device)


def joined(batches: BatchStream, images: int) -> list[Tensor]:
    """The first `images` draws of a stream as one: indices, offsets, mirror bits, other numbers."""
    count = -(-images // batches.batch_size)
    return [torch.cat(part)[:images] for part in zip(*islice(batches, count), strict=True)]


@given(n=st.integers(1, 40), batch_size=st.integers(1, 90), other_size=st.integers(1, 90), pad=st.integers(0, 8))
def test_full_batches_of_permutations_whatever_their_size(n: int, batch_size: int, other_size: int, pad: int) -> None:
    batches = stream(n, batch_size, pad)
    count = 2 + 3 * n // batch_size
    drawn = list(islice(batches, count))
    for indices, offsets, mirror, numbers in drawn:
        assert (indices.shape, offsets.shape, mirror.shape) == ((batch_size,), (batch_size, 2), (batch_size,))
        assert (indices.dtype, offsets.dtype, mirror.dtype) == (torch.int64, torch.int64, torch.bool)
        assert 0 <= offsets.min() <= offsets.max() <= 2 * pad
        assert (numbers.shape, numbers.dtype) == ((batch_size, NUMBERS), torch.float32)
        assert 0 <= numbers.min() <= numbers.max() < 1
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
    _, offsets, mirror, numbers = next(stream(n, n))
    pairs = (offsets[:, 0] * 17 + offsets[:, 1]).bincount(minlength=289)
    assert len(pairs) == 289
    # chi-square with 288 degrees of freedom, whose 99.9 % point is 365.9
    assert ((pairs - n / 289).square() / (n / 289)).sum() < 365.9
    assert abs(mirror.sum().item() - n / 2) < 3.3 * math.sqrt(n) / 2
    correlation = torch.corrcoef(torch.cat([numbers, offsets, mirror[:, None]], 1).T)
    assert (correlation - torch.eye(NUMBERS + 3)).abs().max() < 4 / math.sqrt(n)  # 45 pairs; one in 16,000 is beyond
    assert (numbers.mean(0) - 0.5).abs().max() < 4 / math.sqrt(12 * n)


def test_the_other_numbers_leave_the_generator_as_the_first_three_draws_do() -> None:
    batches, generator = stream(50, 10), torch.Generator().manual_seed(0)
    for _ in range(3):  # passes
        expected = torch.randperm(50, generator=generator)
        torch.randint(17, (50, 2), generator=generator), torch.randint(2, (50,), generator=generator)
        assert torch.equal(torch.cat([next(batches)[0] for _ in range(5)]), expected)


@given(n=st.integers(1, 99), batch_size=st.integers(1, 120), iterations=st.integers(1, 60))
def test_epoch_ends_by_the_definition(n: int, batch_size: int, iterations: int) -> None:
    passes = (math.ceil(Fraction(k * n, batch_size)) for k in range(1, iterations * batch_size + 1))
    expected = {end for end in passes if end <= iterations} | {iterations}
    assert epoch_ends(n, batch_size, iterations) == sorted(expected)
    assert epoch_ends(50_000, 128, 90_000)[:3] == [391, 782, 1172]
