"""DeviceData: a whole data set on the device, and its batches as Lightning wants them."""

from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from replicate.data.augment import augment
from replicate.data.batches import Batch, BatchStream, epoch_ends

TEST_BATCH = 500
"""Test images in a batch; the accuracy does not depend on it."""

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
        return islice(self._data.pairs, self._length)

    @property
    def most(self) -> int:
        """Batches in the longest chunk that this run may meet."""
        return self._data.chunk

    def whole(self) -> tuple[Tensor, Tensor]:
        """Give images (k·b, 3, h, w), channels_last, and labels (k·b,) of its k batches, one after another."""
        return self._data.together(self._length)


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
    """Images and labels in their order, as they are, `TEST_BATCH` at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = torch.split(images, TEST_BATCH), torch.split(labels, TEST_BATCH)

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
        train_images: float32 (N, 3, h, w), preprocessed.
        train_labels: int64 (N,).
        test_images: float32 (n, 3, h, w), preprocessed.
        test_labels: int64 (n,).
        generator: of the CPU; draws the order of the images, their crops and their mirroring.
        batch_size: images in a training batch.
        iterations: training batches in all.
        pad: zero pixels on each side before the random crop.
        mirror: mirror training images with probability 1/2.
        device: where all of it is put.
        chunk: training batches that Lightning gets at a time.
        stops: further iterations at which a chunk ends, so that one can look at the net there. No number depends on it.
    """

    def __init__(
        self,
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        *,
        generator: torch.Generator,
        batch_size: int,
        iterations: int,
        pad: int,
        mirror: bool,
        device: torch.device | str = "cpu",
        chunk: int = 1,
        stops: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.train_images, self.train_labels = train_images.to(device), train_labels.to(device)
        self.test_images, self.test_labels = test_images.to(device), test_labels.to(device)
        self.pad, self.mirror, self.device, self.chunk = pad, mirror, device, chunk
        self.stops = stops
        self.epoch_ends = epoch_ends(len(train_images), batch_size, iterations)
        self.stream = self._stream(generator, batch_size)
        self.pairs = self._pairs_of(self.stream)

    def share(self, rank: int, ranks: int) -> None:
        """Give out one part alone of each training batch, and of the test images; all parts together are the whole.

        Each part has the images, crops and mirrors that the whole would have there. Where `ranks` does not divide a
        batch, the first parts have an image more: 43, 43 and 42 of 128.

        Args:
            rank: which part, from 0.
            ranks: parts in all.

        Raises:
            ValueError: too few images for so many parts.
        """
        if min(self.stream.batch_size, len(self.test_images)) < ranks:
            raise ValueError(
                f"{ranks} processes cannot share batches of {self.stream.batch_size} "
                f"and {len(self.test_images)} test images"
            )
        self.pairs = self._pairs_of(_parts(self.stream, rank, ranks))
        self.test_images, self.test_labels = self.test_images[rank::ranks], self.test_labels[rank::ranks]

    def training_batches(self, generator: torch.Generator, batch_size: int) -> Iterator[Tensor]:
        """Yield augmented training images (batch_size, 3, h, w) without end, from a stream of their own.

        Args:
            generator: of the CPU; not the one that draws the training batches.
            batch_size: images in a batch.
        """
        for indices, offsets, mirror in self._stream(generator, batch_size):
            yield self._augmented(indices, offsets, mirror)

    def first_batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images (batch_size, 3, h, w) and labels (batch_size,) that training sees in its first iteration.

        Args:
            generator: one that stands where that of the training batches began; that one stays where it is.
        """
        return next(self._pairs_of(self._stream(generator, self.stream.batch_size)))

    def together(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the next batches, undivided, as one: images (count·b, 3, h, w) and labels (count·b,)."""
        indices, offsets, mirror = self.stream.take(count)
        return self._augmented(indices, offsets, mirror), self.train_labels[indices]

    def train_dataloader(self) -> TrainingEpoch:
        """Return the batches from where training stands to the next row of the learning curve."""
        # Lightning sets the attribute from outside its class
        if self.trainer is not None and self.trainer.reload_dataloaders_every_n_epochs != 1:  # type: ignore[attr-defined]
            raise ValueError(
                "DeviceData needs Trainer(reload_dataloaders_every_n_epochs=1): its epochs differ in length"
            )
        taken = self.stream.taken
        end = next((end for end in self.epoch_ends if end > taken), taken)
        return TrainingEpoch(self, _chunks(taken, end, self.chunk, self.stops))

    def val_dataloader(self) -> PlainBatches:
        """Return the plain test images, without augmentation."""
        return PlainBatches(self.test_images, self.test_labels)

    def test_dataloader(self) -> PlainBatches:
        """Return the plain test images, without augmentation."""
        return self.val_dataloader()

    def transfer_batch_to_device(self, batch: object, device: torch.device, dataloader_idx: int) -> object:
        """Return the batch: it is on the device already."""
        return batch

    def _stream(self, generator: torch.Generator, batch_size: int) -> BatchStream:
        return BatchStream(len(self.train_images), batch_size, generator, self.pad, self.device)

    def _pairs_of(self, stream: Iterator[Batch]) -> Pairs:
        for indices, offsets, mirror in stream:
            yield self._augmented(indices, offsets, mirror), self.train_labels[indices]

    def _augmented(self, indices: Tensor, offsets: Tensor, mirror: Tensor) -> Tensor:
        # The mirror bits are drawn in any case, see BatchStream.
        images = augment(self.train_images[indices], offsets, mirror & self.mirror, self.pad)
        # Convolutions are faster in this layout, also on a CPU (training/README.md); the values are the same.
        return images.contiguous(memory_format=torch.channels_last)


def _parts(stream: BatchStream, rank: int, ranks: int) -> Iterator[Batch]:
    for batch in stream:
        indices, offsets, mirror = (numbers.tensor_split(ranks)[rank] for numbers in batch)
        yield indices, offsets, mirror


def _chunks(begin: int, end: int, chunk: int, stops: Sequence[int]) -> list[int]:
    """Cut the iterations from begin to end into chunks that end at the stops among them."""
    marks = [begin, *sorted({stop for stop in stops if begin < stop < end}), end]
    return [min(chunk, last - start) for first, last in pairwise(marks) for start in range(first, last, chunk)]
