"""DeviceData: a whole data set on the device, and its batches in the form that Lightning needs."""

from collections import UserList
from collections.abc import Iterator, Sequence
from itertools import islice, starmap
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Generator, Tensor

from replicate.data.augmentation import Augmentation
from replicate.data.batches import BatchStream, epoch_ends
from replicate.run import Run

# Test images in a batch; the accuracy does not depend on it
TEST_BATCH = {"cpu": 500, "cuda": 2000}

# Iterations per step of Lightning: many on a GPU, to hide Lightning's own work; few on a CPU, to show progress
CHUNK = {"cpu": 4, "cuda": 128}

Pair = tuple[Tensor, Tensor]  # images (b, c, h, w) and labels (b,)


class Loader(UserList[Any]):
    """Items for Lightning, which would take a plain list for several loaders, and look ahead if there was no length."""


class Chunk:
    """The next batches of a run's stream, made when they are asked for. It can be used once, before the next chunk.

    Args:
        data: the run's data.
        length: number of batches.

    Attributes:
        max_length: number of batches in the longest chunk of this run.
    """

    def __init__(self, data: "DeviceData", length: int) -> None:
        self.data, self.length, self.max_length = data, length, data.chunk

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Pair]:
        return islice(self.data.batches, self.length)

    def stacked(self) -> Pair:
        """Images (k·b, c, h, w), channels_last, and labels (k·b,) of its k batches, one after another."""
        return self.data.augmented(*self.data.sampler.take(self.length))


class DeviceData(LightningDataModule):
    """A preprocessed data set that is stored on the device, and the batches of one run.

    An epoch of Lightning lasts from one row of the learning curve to the next (`epoch_ends`), so that the validation at
    the end of each epoch makes the rows; the stream of batches continues across epochs. The epochs differ in length, so
    the Trainer must ask for each: `Trainer(reload_dataloaders_every_n_epochs=1, max_epochs=len(data.epoch_ends))`.

    Args:
        train: float32 images (N, c, h, w), preprocessed, and int64 labels (N,).
        test: the same for the n test images.
        run: gives the batch size, the number of iterations and the augmentation.
        generator: of the CPU; draws the order of the images and their augmentation.
        device: `cpu` or `cuda`, where everything is stored.
        boundaries: further iterations at which a chunk ends, so that callbacks see the net there. No result depends on
            them.

    Attributes:
        batches: the training batches of this process, without end: images (b, c, h, w) and labels (b,).
    """

    def __init__(
        self, train: Pair, test: Pair, run: Run, generator: Generator, device: str, boundaries: Sequence[int] = ()
    ) -> None:
        super().__init__()
        deviation = float(train[0].std(correction=0)) if run.colour_jitter else 1.0
        self.augmentation = Augmentation(run, deviation)
        self.train_images, self.train_labels = (tensor.to(device) for tensor in train)
        self.train_images = self.train_images.contiguous(memory_format=torch.channels_last)  # for `crop`
        self.test_images, self.test_labels = (tensor.to(device) for tensor in test)
        self.pad, self.device = run.pad, device
        self.chunk, self.boundaries = CHUNK[device], boundaries
        self.epoch_ends = epoch_ends(len(self.train_images), run.batch_size, run.iterations)
        self.sampler = self._stream(generator, run.batch_size)
        self.batches = starmap(self.augmented, self.sampler)

    def shard(self, rank: int, ranks: int) -> None:
        """Keep only one part of each training batch, and of the test images; all parts together are the whole.

        Each part has the images, crops and mirrors that the whole has there. If `ranks` does not divide a batch, the
        first parts have one image more: 43, 43 and 42 of 128.

        Args:
            rank: which part, from 0.
            ranks: number of parts.

        Raises:
            ValueError: too few images for so many parts.
        """
        size, n = self.sampler.batch_size, len(self.test_images)
        if min(size, n) < ranks:
            raise ValueError(f"{ranks} processes cannot share batches of {size} and {n} test images")
        parts = ([numbers.tensor_split(ranks)[rank] for numbers in batch] for batch in self.sampler)
        self.batches = starmap(self.augmented, parts)
        self.test_images, self.test_labels = self.test_images[rank::ranks], self.test_labels[rank::ranks]

    def fresh_batches(self, generator: Generator, batch_size: int) -> Iterator[Pair]:
        """Return undivided training batches without end, from a stream of their own.

        Args:
            generator: of the CPU; not the one that draws the training batches.
            batch_size: images in a batch.
        """
        return starmap(self.augmented, self._stream(generator, batch_size))

    def train_dataloader(self) -> Loader:
        """Return the chunks from the current iteration to the next row of the learning curve."""
        taken = self.sampler.taken
        end = next((end for end in self.epoch_ends if end > taken), taken)
        chunks = []
        while taken < end:
            stop = min(end, taken + self.chunk, *(mark for mark in self.boundaries if mark > taken))
            chunks.append(Chunk(self, stop - taken))
            taken = stop
        return Loader(chunks)

    def val_dataloader(self) -> Loader:
        """Return the test images and labels in their order, without augmentation."""
        size = TEST_BATCH[self.device]
        return Loader(zip(torch.split(self.test_images, size), torch.split(self.test_labels, size), strict=True))

    def _stream(self, generator: Generator, batch_size: int) -> BatchStream:
        return BatchStream(len(self.train_images), batch_size, generator, self.pad, self.device)

    def augmented(self, indices: Tensor, offsets: Tensor, mirror: Tensor, numbers: Tensor) -> Pair:
        """Return the images (b, c, h, w) and labels (b,) of a Batch."""
        return self.augmentation(self.train_images[indices], offsets, mirror, numbers), self.train_labels[indices]
