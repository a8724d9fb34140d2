"""DeviceData. Training through Lightning is tested in tests/training."""

from itertools import chain, islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicate.data.augmentation import crop
from replicate.data.batches import BatchStream
from replicate.data.datamodule import DeviceData, Pair
from replicate.run import Run

N, TEST = 50, 1203


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def device_data(chunk: int = 1, boundaries: tuple[int, ...] = (), **settings: object) -> DeviceData:
    run = Run("lsuv", "relu", milestones=[], **{"batch_size": 8, "iterations": 22, "pad": 2, **settings})
    train = torch.randn(N, 3, 4, 4, generator=seeded(1)), torch.arange(N)
    test = torch.randn(TEST, 3, 4, 4, generator=seeded(2)), torch.arange(TEST)
    data = DeviceData(train, test, run, seeded(3), "cpu", boundaries)
    data.chunk = chunk
    return data


def expected_batches(data: DeviceData, count: int, seed: int = 3, batch_size: int | None = None) -> list[Pair]:
    """The first batches, from the parts."""
    stream = BatchStream(N, batch_size or data.sampler.batch_size, seeded(seed), data.pad)
    return [
        (crop(data.train_images[indices], offsets, mirror, data.pad), data.train_labels[indices])
        for indices, offsets, mirror, _ in islice(stream, count)
    ]


def joined(pairs: list[Pair]) -> Pair:
    images, labels = zip(*pairs, strict=True)
    return torch.cat(images), torch.cat(labels)


def assert_equal(found: list[Pair], expected: list[Pair]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@given(st.integers(1, 70), st.integers(1, 25), st.integers(1, 9), st.lists(st.integers(0, 25)))
def test_each_epoch_goes_to_the_next_row_in_chunks_that_end_at_the_boundaries(
    batch_size: int, iterations: int, most: int, boundaries: list[int]
) -> None:
    data = device_data(most, tuple(boundaries), batch_size=batch_size, iterations=iterations)
    seen: list[Pair] = []
    for end in data.epoch_ends:
        for chunk in data.train_dataloader():
            start = len(seen)
            seen += chunk
            assert len(chunk) == len(seen) - start <= most
            assert not any(start < mark < len(seen) for mark in boundaries)
        assert len(seen) == data.sampler.taken == end
    assert end == iterations
    assert_equal(seen, expected_batches(data, iterations))


def test_streams_do_not_move_each_other() -> None:
    data = device_data()
    next(data.batches)
    data.train_dataloader()  # an epoch takes nothing until it is iterated over
    assert_equal([*islice(data.fresh_batches(seeded(9), 12), 10)], expected_batches(data, 10, seed=9, batch_size=12))
    assert data.sampler.taken == 1
    assert_equal([next(data.batches)], expected_batches(data, 2)[1:])


def test_without_augmentation_the_order_stays_and_the_images_are_as_they_are() -> None:
    data = device_data(pad=0, mirror=False)
    order = [labels for _, labels in expected_batches(device_data(), 7)]
    for (images, labels), expected in zip(chain.from_iterable(data.train_dataloader()), order, strict=True):
        assert torch.equal(labels, expected)
        assert torch.equal(images, data.train_images[labels])


@pytest.mark.parametrize(("ranks", "sizes"), [(2, [4, 4]), (3, [3, 3, 2])])
def test_the_shards_together_are_the_whole(ranks: int, sizes: list[int]) -> None:
    whole = device_data()
    shards = [device_data() for _ in range(ranks)]
    for rank, data in enumerate(shards):
        data.shard(rank, ranks)
        # what is measured is not divided
        assert_equal([next(data.fresh_batches(seeded(3), 8))], expected_batches(whole, 1))
    for batch, *parts in islice(zip(whole.batches, *(data.batches for data in shards), strict=True), 20):
        assert [len(part[1]) for part in parts] == sizes
        assert_equal([joined(parts)], [batch])
    tested = joined([pair for data in shards for pair in data.val_dataloader()])
    order = tested[1].sort().indices
    assert_equal([(tested[0][order], tested[1][order])], [(whole.test_images, whole.test_labels)])
    assert [len(labels) for _, labels in whole.val_dataloader()] == [500, 500, 203]
