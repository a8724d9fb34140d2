"""DeviceData: a whole data set on the device, and its batches as Lightning wants them."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from replicate.data.augment import augment
from replicate.data.batches import Batch, BatchStream, epoch_ends
from replicate.run import Run

TEST_BATCH = {"cpu": 500, "cuda": 2000, "mps": 500}
"""Test images in a batch; the accuracy does not depend on it."""

CHUNK = {"cpu": 4, "cuda": 128, "mps": 64}
"""Iterations that Lightning gets at a time: many on a GPU, to hide its own work; few on a CPU, to show progress."""

Pairs = Iterator[tuple[Tensor, Tensor]]  # images (b, 3, h, w) and labels (b,)


class Chunk:
    """The next batches of a run's stream: one by one, made when they are asked for, or all at once; one way, once.

    Args:
        data: whose batches they are.
        length: number of batches.
    """

    def __init__(self, data: "DeviceData", length: int) -> None:
        self._data, self._length = data, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Pairs:
        return islice(self._data.batches, self._length)

    @property
    def max_length(self) -> int:
        """Batches in the longest chunk of this run."""
        return self._data.chunk

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Images (k·b, 3, h, w), channels_last, and labels (k·b,) of its k batches, one after another."""
        return self._data.next_batches(self._length)


class TrainingEpoch:
    """The batches of one epoch of Lightning, the next ones of an endless stream, in chunks.

    A chunk must be used up before the next. There is a length because Lightning, where it finds none, fetches one item
    ahead: the next epoch would miss it.

    Args:
        data: whose batches they are.
        chunks: batches in each chunk.
    """

    def __init__(self, data: "DeviceData", chunks: list[int]) -> None:
        self.data, self.chunks = data, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Chunk]:
        for length in self.chunks:
            yield Chunk(self.data, length)


class PlainBatches:
    """Images and labels in their order, as they are, `size` at a time."""

    def __init__(self, images: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.labels = torch.split(images, size), torch.split(labels, size)

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Pairs:
        return zip(self.images, self.labels, strict=True)


class DeviceData(LightningDataModule):
    """A preprocessed data set that lives on the device, and the batches of one run.

    An epoch of Lightning lasts from one row of the learning curve to the next (`epoch_ends`), so that its validation at
    the end of each epoch makes the rows; the stream of batches goes on across epochs. The epochs differ in length, so
    the Trainer must ask for each: `Trainer(reload_dataloaders_every_n_epochs=1, max_epochs=len(data.epoch_ends))`.

    Args:
        train: float32 images (N, 3, h, w), preprocessed, and int64 labels (N,).
        test: likewise, n of them.
        run: gives the batch size, the number of iterations, the padding and the mirroring.
        generator: of the CPU; draws the order of the images, their crops and their mirroring.
        device: where all of it is put.
        boundaries: further iterations at which a chunk ends, so that callbacks see the net there. No number depends on
            it.
    """

    def __init__(
        self,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        run: Run,
        generator: torch.Generator,
        device: str = "cpu",
        boundaries: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.train_images, self.train_labels = (tensor.to(device) for tensor in train)
        self.train_images = self.train_images.contiguous(memory_format=torch.channels_last)  # for `augment`
        self.test_images, self.test_labels = (tensor.to(device) for tensor in test)
        self.pad, self.mirror, self.device = run.pad, run.mirror, device
        self.chunk = CHUNK[device]
        self.boundaries = boundaries
        self.epoch_ends = epoch_ends(len(self.train_images), run.batch_size, run.iterations)
        self.sampler = self._sampler(generator, run.batch_size)
        self.batches = self._batches_of(self.sampler)

    def shard(self, rank: int, ranks: int) -> None:
        """Keep only one part of each training batch, and of the test images; all parts together are the whole.

        Each part has the images, crops and mirrors that the whole has there. If `ranks` does not divide a batch, the
        first parts have one image more: 43, 43 and 42 of 128.

        Args:
            rank: which part, from 0.
            ranks: parts in all.

        Raises:
            ValueError: too few images for so many parts.
        """
        if min(self.sampler.batch_size, len(self.test_images)) < ranks:
            raise ValueError(
                f"{ranks} processes cannot share batches of {self.sampler.batch_size} "
                f"and {len(self.test_images)} test images"
            )
        self.batches = self._batches_of(_parts(self.sampler, rank, ranks))
        self.test_images, self.test_labels = self.test_images[rank::ranks], self.test_labels[rank::ranks]

    def training_batches(self, generator: torch.Generator, batch_size: int) -> Iterator[Tensor]:
        """Yield augmented training images (batch_size, 3, h, w) without end, from a stream of their own.

        Args:
            generator: of the CPU; not the one that draws the training batches.
            batch_size: images in a batch.
        """
        for indices, offsets, mirror in self._sampler(generator, batch_size):
            yield self._augmented(indices, offsets, mirror)

    def first_batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images (batch_size, 3, h, w) and labels (batch_size,) that training sees in its first iteration.

        Args:
            generator: one that stands where that of the training batches began; that one stays where it is.
        """
        return next(self._batches_of(self._sampler(generator, self.sampler.batch_size)))

    def next_batches(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the next batches, undivided, as one: images (count·b, 3, h, w) and labels (count·b,)."""
        indices, offsets, mirror = self.sampler.take(count)
        return self._augmented(indices, offsets, mirror), self.train_labels[indices]

    def train_dataloader(self) -> TrainingEpoch:
        """Return the batches from where training stands to the next row of the learning curve."""
        # Lightning sets the attribute from outside its class
        if self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ValueError(
                "DeviceData needs Trainer(reload_dataloaders_every_n_epochs=1): its epochs differ in length"
            )
        taken = self.sampler.taken
        end = next((end for end in self.epoch_ends if end > taken), taken)
        return TrainingEpoch(self, _chunks(taken, end, self.chunk, self.boundaries))

    def val_dataloader(self) -> PlainBatches:
        """Return the plain test images, without augmentation."""
        return PlainBatches(self.test_images, self.test_labels, TEST_BATCH[self.device])

    def test_dataloader(self) -> PlainBatches:
        """Return the plain test images, without augmentation."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        """Return the batch: it is on the device already."""
        return batch

    def _sampler(self, generator: torch.Generator, batch_size: int) -> BatchStream:
        return BatchStream(len(self.train_images), batch_size, generator, self.pad, self.device)

    def _batches_of(self, stream: Iterator[Batch]) -> Pairs:
        for indices, offsets, mirror in stream:
            yield self._augmented(indices, offsets, mirror), self.train_labels[indices]

    def _augmented(self, indices: Tensor, offsets: Tensor, mirror: Tensor) -> Tensor:
        # The mirror bits are drawn in any case, see BatchStream.
        return augment(self.train_images[indices], offsets, mirror & self.mirror, self.pad)


def _parts(stream: BatchStream, rank: int, ranks: int) -> Iterator[Batch]:
    for batch in stream:
        indices, offsets, mirror = (numbers.tensor_split(ranks)[rank] for numbers in batch)
        yield indices, offsets, mirror


def _chunks(begin: int, end: int, chunk: int, boundaries: Sequence[int]) -> list[int]:
    """Cut the iterations from begin to end into chunks that end at the boundaries among them."""
    marks = [begin, *sorted({one for one in boundaries if begin < one < end}), end]
    return [min(chunk, last - start) for first, last in pairwise(marks) for start in range(first, last, chunk)]
