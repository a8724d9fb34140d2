from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from replicate.data.augment import augment
from replicate.data.batches import BatchStream
from replicate.data.datamodule import Chunk, DeviceData
from replicate.run import Run

N, TEST = 50, 1203
Pair = tuple[Tensor, Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def device_data(
    batch_size: int = 8,
    iterations: int = 22,
    pad: int = 2,
    mirror: bool = True,
    chunk: int = 1,
    boundaries: tuple[int, ...] = (),
) -> DeviceData:
    run = Run("lsuv", "relu", batch_size=batch_size, iterations=iterations, milestones=[], pad=pad, mirror=mirror)
    train = torch.randn(N, 3, 4, 4, generator=seeded(1)), torch.arange(N)
    test = torch.randn(TEST, 3, 4, 4, generator=seeded(2)), torch.arange(TEST)
    data = DeviceData(train, test, run, seeded(3), boundaries=boundaries)
    data.chunk = chunk
    return data


def expected_batches(data: DeviceData, batch_size: int, pad: int, mirrored: bool = True) -> list[Pair]:
    """The first 30 batches, from the parts."""
    stream = BatchStream(N, batch_size, seeded(3), pad)
    return [
        (augment(data.train_images[indices], offsets, mirror & mirrored, pad), data.train_labels[indices])
        for indices, offsets, mirror in islice(stream, 30)
    ]


class Recorder(LightningModule):
    """Keeps every batch it is given, and the step at which it was validated."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(48, 1)
        self.chunks: list[int] = []
        self.seen: list[Pair] = []
        self.validated: list[int] = []
        self.tested: list[Pair] = []

    def training_step(self, chunk: Chunk) -> None:
        batches = list(chunk)
        self.chunks.append(len(batches))
        self.seen += batches

    def on_validation_epoch_start(self) -> None:
        self.validated.append(len(self.seen))
        self.tested = []

    def validation_step(self, batch: Pair) -> None:
        self.tested.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer(folder: Path, max_epochs: int, reload: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, max_epochs=max_epochs, reload_dataloaders_every_n_epochs=reload,
        check_val_every_n_epoch=1, num_sanity_val_steps=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batch_size", "iterations", "rows"),
    [
        (8, 22, [7, 13, 19, 22]),  # 50 / 8 = 6.25
        (8, 19, [7, 13, 19]),
        (8, 5, [5]),
        (10, 15, [5, 10, 15]),
        (64, 4, [1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_training_sees_exactly_the_stream_and_is_validated_at_the_rows(
    tmp_path: Path, batch_size: int, iterations: int, rows: list[int], chunk: int
):
    data = device_data(batch_size, iterations, chunk=chunk)
    assert data.epoch_ends == rows
    module = Recorder()
    fit = trainer(tmp_path, len(rows))
    fit.fit(module, datamodule=data)

    assert module.validated == rows
    assert max(module.chunks) <= chunk
    assert sum(module.chunks) == iterations
    assert data.sampler.taken == iterations
    expected = expected_batches(data, batch_size, 2)[:iterations]
    assert len(module.seen) == iterations
    for (images, labels), (true_images, true_labels) in zip(module.seen, expected, strict=True):
        assert torch.equal(images, true_images)
        assert torch.equal(labels, true_labels)


def test_a_whole_chunk_is_its_batches_one_after_another() -> None:
    one, other = device_data(chunk=5), device_data(chunk=5)
    for parts, whole in zip(one.train_dataloader(), other.train_dataloader(), strict=True):
        images, labels = whole.stacked()
        pairs = list(parts)
        assert len(pairs) == len(whole) <= whole.max_length == 5
        assert torch.equal(images, torch.cat([pair[0] for pair in pairs]))
        assert torch.equal(labels, torch.cat([pair[1] for pair in pairs]))
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert one.sampler.taken == other.sampler.taken == 7  # the first row of the curve: 50 images in batches of 8


def test_a_chunk_ends_at_each_boundary_and_the_batches_stay_the_same(tmp_path: Path):
    data = device_data(chunk=4, boundaries=(0, 3, 9, 22))
    module = Recorder()
    trainer(tmp_path, 4).fit(module, datamodule=data)
    assert module.chunks == [3, 4, 2, 4, 4, 2, 3]  # 0 to 7, 7 to 13, 13 to 19, 19 to 22
    assert module.validated == [7, 13, 19, 22]
    for (images, _), (true_images, _) in zip(module.seen, expected_batches(data, 8, 2)[:22], strict=True):
        assert torch.equal(images, true_images)


def test_the_first_batch_is_what_training_sees_first_and_moves_nothing():
    data = device_data()
    next(data.batches)
    images, labels = data.first_batch(seeded(3))
    (true_images, true_labels), (next_images, _) = expected_batches(data, 8, 2)[:2]
    assert torch.equal(images, true_images)
    assert torch.equal(labels, true_labels)
    assert data.sampler.taken == 1
    assert torch.equal(next(data.batches)[0], next_images)


def test_validation_sees_the_plain_test_images(tmp_path: Path):
    data = device_data()
    module = Recorder()
    trainer(tmp_path, 4).fit(module, datamodule=data)
    assert torch.equal(torch.cat([images for images, _ in module.tested]), data.test_images)
    assert torch.equal(torch.cat([labels for _, labels in module.tested]), data.test_labels)
    assert [len(labels) for _, labels in module.tested] == [500, 500, 203]
    assert len(data.test_dataloader()) == 3


def test_a_trainer_that_keeps_the_first_epochs_length_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="reload_dataloaders_every_n_epochs=1"):
        trainer(tmp_path, 4, reload=0).fit(Recorder(), datamodule=device_data())


def test_an_epoch_that_is_asked_for_again_takes_nothing():
    data = device_data()
    first, second = data.train_dataloader(), data.train_dataloader()
    iter(first)
    assert len(first) == len(second) == 7
    batches = list(chain.from_iterable(second))
    assert torch.equal(batches[0][1], expected_batches(data, 8, 2)[0][1])
    assert len(data.train_dataloader()) == 6


def test_without_mirroring_the_order_and_the_crops_stay():
    data = device_data(mirror=False)
    for (images, labels), (plain, expected) in zip(
        chain.from_iterable(data.train_dataloader()), expected_batches(data, 8, 2, mirrored=False), strict=False
    ):
        assert torch.equal(images, plain)
        assert torch.equal(labels, expected)


def test_without_augmentation_the_images_are_as_they_are():
    data = device_data(pad=0, mirror=False)
    for (images, labels), (_, expected) in zip(
        chain.from_iterable(data.train_dataloader()), expected_batches(data, 8, 2), strict=False
    ):
        assert torch.equal(labels, expected)
        assert torch.equal(images, data.train_images[labels])


def test_batches_for_lsuv_come_from_a_stream_of_their_own():
    data = device_data()
    stream = BatchStream(N, 12, seeded(9), 2)
    for images in islice(data.training_batches(seeded(9), 12), 10):
        indices, offsets, mirror = next(stream)
        assert torch.equal(images, augment(data.train_images[indices], offsets, mirror, 2))
    assert data.sampler.taken == 0
    for (images, _), (expected, _) in zip(
        chain.from_iterable(data.train_dataloader()), expected_batches(data, 8, 2), strict=False
    ):
        assert torch.equal(images, expected)


def test_batches_stay_where_they_are():
    data = device_data()
    batch = (data.train_images, data.train_labels)
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_shares_of_all_are_the_whole(ranks: int) -> None:
    whole = device_data(batch_size=8)
    shares = [device_data(batch_size=8) for _ in range(ranks)]
    for rank, data in enumerate(shares):
        data.shard(rank, ranks)
        assert torch.equal(
            data.first_batch(seeded(3))[1], whole.first_batch(seeded(3))[1]
        )  # what is measured is not cut
    for chunks in zip(whole.train_dataloader(), *(data.train_dataloader() for data in shares), strict=True):
        (images, labels), *parts = (next(iter(chunk)) for chunk in chunks)
        assert [len(part[1]) for part in parts] == ([4, 4] if ranks == 2 else [3, 3, 2])
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)
    tested = torch.cat([labels for data in shares for _, labels in data.val_dataloader()])
    assert torch.equal(tested.sort().values, whole.test_labels)
